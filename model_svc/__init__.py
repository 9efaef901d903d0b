"""The model process: runs decoder models for many sequences at once, one step at a time."""
