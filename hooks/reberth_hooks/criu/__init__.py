"""What backends that drive criu share."""
