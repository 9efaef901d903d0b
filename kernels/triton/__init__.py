"""Every operation as Triton kernels: one file an operation, one launch wrapper each."""
