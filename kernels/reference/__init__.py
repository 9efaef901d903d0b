"""The oracle of all operations, in plain PyTorch; no service imports it."""
