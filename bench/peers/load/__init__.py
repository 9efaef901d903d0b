"""The load generator and the protocols that it speaks."""
