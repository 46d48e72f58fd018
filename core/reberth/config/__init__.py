"""What the user wrote: configuration, inventory, options and names."""
