"""Placement of requests on replicas, and recovery from their failures."""
