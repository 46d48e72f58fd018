"""The command line client of LXD and Incus: alias and shim."""
