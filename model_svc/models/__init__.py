"""Decoder models as data: what a checkpoint describes, and the one decoder that runs them all."""
