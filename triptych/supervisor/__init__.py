"""Supervisor of a deployment's four services on this machine.

The supervisor never touches a request: it starts, watches and stops.
"""
