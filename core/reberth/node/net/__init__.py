"""Addresses, neighbours, sockets and encrypted channels of a node."""
