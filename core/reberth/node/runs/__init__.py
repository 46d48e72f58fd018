"""A run on a node: its journal and undo, the source, the target."""
