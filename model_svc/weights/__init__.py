"""Checkpoints and their tensors."""
