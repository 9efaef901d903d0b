"""The server side of a service: calls, checks, health, shutdown."""
