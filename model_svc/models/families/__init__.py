"""Families of checkpoints, one file of data each.

A new family is a file with a `FAMILY`: its name in config.json's `architectures`, a reader that
makes a `DecoderSpec` of config.json, mostly from parts of `model_svc.models.spec_reader`, and the
names and stored form of its weights. `model_svc.models.registry` lists it, and a case of
`tests/model_svc/models/test_decoder.py` compares it with transformers.
"""
