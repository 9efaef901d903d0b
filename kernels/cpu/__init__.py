"""The operations of `kernels.ops` for a CPU, in plain PyTorch."""
