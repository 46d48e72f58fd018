"""The helper's loop, and what a helper that was killed left."""
