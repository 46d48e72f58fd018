"""criu and runc on a node: the tool that is held, and what their files say."""
