"""Plugins: which there are, and the one way by which they are called."""
