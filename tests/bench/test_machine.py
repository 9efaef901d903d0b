"""What is told of the machine that figures come from."""

from __future__ import annotations

from bench.machine import describe, instructions


def test_the_widest_instructions_come_first() -> None:
    info = "processor : 0\nmodel name : Some CPU\nflags : fpu avx2 avx512f avx512_bf16\n"

    assert instructions(info) == ["AVX-512 with bfloat16", "AVX-512", "AVX2"]
    assert instructions(info.replace("avx512", "avx51")) == ["AVX2"]
    assert instructions("Features : fp asimd\n") == ["NEON"]
    assert instructions("") == []


def test_cores_and_memory_are_told() -> None:
    told = describe()

    assert " cores of " in told
    assert told.endswith(" GiB")
