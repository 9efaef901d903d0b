"""How fast the Triton kernels are on the GPU at hand, beside its ceilings and others' kernels.

A *case* is an operation at one shape, a *contender* ours or another's way to compute it. Invariant:
nothing is told that was not measured, by replay of CUDA graphs over operands that no cache holds.
"""
