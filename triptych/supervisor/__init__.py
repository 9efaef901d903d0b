"""Run the four services of a deployment on this machine, as children of one process.

The supervisor never touches a request: it starts, watches and stops.
"""
