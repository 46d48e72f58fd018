"""Trees of files as a framed stream, from one node to another."""
