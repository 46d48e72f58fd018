"""What a command does beside a move, without the command line."""
