"""Checkpoints that stay: in a directory of this machine, or as one archive on a node."""
