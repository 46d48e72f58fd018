"""Programs that make and are a node; started as files, they import nothing of the package."""
