"""What the controller can ask of a node: one module a group."""
