"""Connections from the router to the other services."""
