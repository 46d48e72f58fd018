"""What a node says of a process tree before it moves."""
