"""Addresses, sockets and channels between services."""
