"""The operations of `kernels.ops` for a CPU, those that gain by it in C."""
