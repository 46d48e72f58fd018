"""Near-live moves: snapshots while it runs, then a short stop."""
