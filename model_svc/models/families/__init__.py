"""Families of checkpoints, one file of data each; `model_svc.models.registry` lists them."""
