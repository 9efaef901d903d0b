"""Decoder models as data, and the one decoder that runs them all."""
