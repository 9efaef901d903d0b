"""Speed of the Triton kernels on this GPU, beside its ceilings and others' kernels.

A *case* is an operation at one shape, a *contender* one way to compute it, ours or a peer's.
Invariant: every figure was measured, by replay of CUDA graphs over operands that no cache holds.
"""
