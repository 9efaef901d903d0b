"""Attention over token-level KV, and the writes of its caches."""
