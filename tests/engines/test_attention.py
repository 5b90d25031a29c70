"""Attention over pages: every backend that runs on a CPU against the definition in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.attention import Shape, forward
from worker.engines.causal.attention.gathered import Gathered
from worker.engines.causal.attention.reference import Reference

LLAMA = Shape(kv_heads=2, group=2, dim=8, value_dim=8)
shapes = st.builds(
    Shape, kv_heads=st.integers(1, 3), group=st.integers(1, 4), dim=st.just(8), value_dim=st.sampled_from([4, 8])
)
decoding = st.lists(st.integers(1, 40), max_size=6)
reading = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 30)), max_size=4)


@given(
    decoding=decoding,
    reading=reading,
    padding=st.integers(0, 2),
    shape=shapes,
    block_size=st.sampled_from([1, 4, 16]),
    window=st.none() | st.integers(1, 45),
    softcap=st.none() | st.sampled_from([0.5, 20.0]),
    seed=st.integers(0, 99),
)
def test_gathered_answers_as_defined(
    *,
    decoding: list[int],
    reading: list[tuple[int, int]],
    padding: int,
    shape: Shape,
    block_size: int,
    window: int | None,
    softcap: float | None,
    seed: int,
) -> None:
    if not decoding and not reading:
        return
    made = forward(decoding, reading, shape, block_size=block_size, padding=padding, seed=seed)
    made.check(Gathered(), window=window, softcap=softcap)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_in_any_precision(dtype: torch.dtype, softcap: float | None) -> None:
    made = forward([1, 9, 33, 8], [(5, 0), (7, 11)], LLAMA, dtype=dtype)
    made.check(Gathered(), softcap=softcap)


def test_one_object_serves_forwards_of_any_size_and_window() -> None:
    """Its memory grows, and what it kept of one forward is not taken for another's."""
    attention = Gathered()
    for size in (40, 3, 90):
        for window in (None, 8, None):
            forward([size, 1], [(size, 5)], LLAMA, seed=size).check(attention, window=window)


def test_layers_share_what_begin_was_told() -> None:
    """Two layers of one forward, with windows of their own, after one `begin`."""
    made = forward([20, 9], [(6, 7)], LLAMA)
    attention, reference = Gathered(), Reference()
    for each in (attention, reference):
        each.begin(made.layout, made.block_size)
    for window in (None, 4, None):
        expected, answer = (
            each.attend(made.query, made.key, made.value, made.pages, scale=0.3, window=window, softcap=None)
            for each in (reference, attention)
        )
        assert torch.allclose(answer, expected, atol=1e-5)


def test_a_row_that_is_not_a_number_stays_alone() -> None:
    """Rows of about one length are computed together, and still a neighbour's NaN must not be seen."""
    made = forward([10, 9, 9], [(4, 6)], LLAMA)
    made.query[1] = torch.nan
    made.key[2] = torch.nan
    answer, _ = made.by(Gathered())
    assert answer.isnan().flatten(1).any(1).tolist() == [False, True, True, False, False, False, False]


def test_queries_that_are_part_of_a_larger_tensor() -> None:
    """Merged projections give views: only their last dim is side by side."""
    made = forward([5, 30], [(6, 3)], LLAMA)
    merged = torch.cat([made.query, made.key, made.value], dim=1)
    expected, _ = made.by(Gathered())
    query, key, value = torch.split(merged, [4, 2, 2], 1)
    attention = Gathered()
    attention.begin(made.layout, made.block_size)
    answer = attention.attend(query, key, value, made.pages, scale=0.3, window=None, softcap=None)
    assert torch.allclose(answer, expected, atol=1e-6)
