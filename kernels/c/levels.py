"""The levels of instructions that the C code is compiled for.

Invariant: nothing is imported here, so that the installation can read this.
"""

LEVELS = ("portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16")
"""Each has the instructions of those before it; the first, those of every processor."""
