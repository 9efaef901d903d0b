"""Ids to text: turns a model's token frames into text, step by step, and matches stop strings."""
