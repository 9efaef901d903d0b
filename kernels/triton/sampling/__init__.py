"""Sampling from logits on the device."""
