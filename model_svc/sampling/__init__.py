"""Sampling parameters and samplers."""
