"""Memory of captured computations: each living tensor has its own, and none is left unused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.c.arena import Arena

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.int64]
PAGE = 4096


def span(tensor: torch.Tensor) -> tuple[int, int]:
    start = tensor.data_ptr()
    return start, start + tensor.numel() * tensor.element_size()


def apart(first: torch.Tensor, second: torch.Tensor) -> bool:
    (start, past), (other_start, other_past) = span(first), span(second)
    return past <= other_start or other_past <= start


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 7), (1, 4097), (0, 4), torch.Size((2, 3))])
def test_a_tensor_has_the_shape_and_dtype_asked_for(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = Arena().empty(shape, dtype)

    assert tensor.shape == shape
    assert tensor.dtype == dtype
    assert tensor.is_contiguous()
    # As the widest vectors like it.
    assert tensor.data_ptr() % 64 == 0


def test_a_block_serves_again_once_its_tensor_is_gone() -> None:
    arena = Arena()
    first = arena.empty((300,), torch.float32)
    where = first.data_ptr()

    del first

    assert arena.empty((20, 5), torch.bfloat16).data_ptr() == where


def test_a_block_serves_nobody_else_while_a_view_is_left() -> None:
    arena = Arena()
    whole = arena.empty((4, 6, 8), torch.bfloat16)
    where = whole.data_ptr()
    first, _ = whole.view(4, -1).split_with_sizes((40, 8), dim=1)
    view = first[1:].unsqueeze(0).view(torch.int16)
    del whole, first, _

    other = arena.empty((4, 6, 8), torch.bfloat16)
    assert other.data_ptr() != where
    del view

    assert arena.empty((4, 6, 8), torch.bfloat16).data_ptr() == where


def test_living_tensors_lie_apart() -> None:
    arena = Arena()
    tensors = [arena.empty((size,), torch.uint8) for size in (1, PAGE, PAGE + 1, 7, 90_000, 3)]

    pairs = [(a, b) for place, a in enumerate(tensors) for b in tensors[:place]]
    assert all(apart(*pair) for pair in pairs)


def test_a_larger_tensor_gets_a_larger_block_and_the_smaller_one_stays() -> None:
    arena = Arena()
    small, large = (arena.empty((size,), torch.uint8) for size in (PAGE, 10 * PAGE))
    of_small, of_large = small.data_ptr(), large.data_ptr()
    del small, large

    # The smallest that fits, so that the large one is left for who needs it.
    again = arena.empty((PAGE // 2,), torch.uint8)
    assert again.data_ptr() == of_small
    assert arena.empty((PAGE + 1,), torch.uint8).data_ptr() == of_large


def test_what_fits_no_free_block_gets_a_new_one() -> None:
    arena = Arena()
    small = arena.empty((PAGE,), torch.uint8)
    kept = arena.without_lease(small)
    del small

    large = arena.empty((PAGE + 1,), torch.uint8)

    assert apart(kept, large)


def test_without_lease_is_the_same_memory_and_others_may_have_it() -> None:
    arena = Arena()
    tensor = arena.empty((3, 4), torch.float32)
    tensor.copy_(torch.arange(12.0).view(3, 4))

    free = arena.without_lease(tensor)
    assert free.data_ptr() == tensor.data_ptr()
    beside = arena.empty((3, 4), torch.float32)
    assert apart(beside, free)
    del tensor

    assert torch.equal(free, torch.arange(12.0).view(3, 4))
    other = arena.empty((12,), torch.float32)
    assert other.data_ptr() == free.data_ptr()
    other.fill_(7)
    assert (free == 7).all()


def test_without_lease_takes_parts_of_a_block() -> None:
    arena = Arena()
    tensor = arena.empty((6, 4), torch.bfloat16)
    tensor.copy_(torch.arange(24).view(6, 4))

    part = arena.without_lease(tensor[2:5])

    assert torch.equal(part, torch.arange(8, 20).view(3, 4).bfloat16())
    assert part.data_ptr() == tensor[2:].data_ptr()


def test_a_tensor_of_other_memory_is_refused() -> None:
    arena, other = Arena(), Arena()
    arena.empty((3,), torch.float32)

    for foreign in (torch.zeros(2, 3), other.empty((2, 3), torch.float32)):
        with pytest.raises(ValueError, match=r"\(2, 3\) of other memory"):
            arena.without_lease(foreign)


SIZES = st.one_of(st.integers(0, 40), st.integers(2_000, 10_000))
ACTIONS = st.one_of(
    st.tuples(st.just("take"), SIZES, st.sampled_from(DTYPES)),
    st.tuples(st.just("view"), st.integers(0, 10**6)),
    st.tuples(st.just("release"), st.integers(0, 10**6)),
)


@given(st.lists(ACTIONS, max_size=60))
def test_living_tensors_keep_what_was_written_in_them(actions: list[tuple]) -> None:
    arena = Arena()
    living: list[tuple[torch.Tensor, int]] = []
    for number, (what, *how) in enumerate(actions):
        if what == "take":
            tensor = arena.empty((how[0],), how[1]).fill_(number)
            living.append((tensor, number))
            del tensor
        elif living and what == "view":
            tensor, mark = living[how[0] % len(living)]
            living.append((tensor[len(tensor) // 2 :], mark))
            del tensor
        elif living:
            del living[how[0] % len(living)]
        assert all((tensor == mark).all() for tensor, mark in living)
