"""Moves over HTTPS alone."""
