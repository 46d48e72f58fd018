"""What is told about a run, and what a tool's message means."""
