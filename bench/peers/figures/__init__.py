"""Ratios, targets, the page and the picture made of them."""
