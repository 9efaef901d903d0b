"""Clients of a round: their requests, how each went, and what came back."""
