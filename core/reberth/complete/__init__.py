"""Completion of the command line: standard library only, since it runs at every press of the tab key."""
