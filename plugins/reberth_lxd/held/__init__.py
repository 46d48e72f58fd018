"""Moves whose daemons are held at the moments that decide."""
