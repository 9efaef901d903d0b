"""The operations of `kernels.ops`, made fast on a CPU with plain PyTorch."""
