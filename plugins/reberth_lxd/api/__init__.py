"""The API of LXD and Incus."""
