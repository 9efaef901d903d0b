"""Public protocols of the router."""
