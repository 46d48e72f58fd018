"""Processes, programs and files, for every other part of the helper."""
