"""Attention over pages: every backend that runs on a CPU against the definition in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ktqueue.errors import ConfigurationError
from tests.support.attention import Shape, forward
from worker.engines.causal.attention.choose import Need, choose
from worker.engines.causal.attention.flash import rows_of
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


@pytest.mark.parametrize("name", ["auto", "gathered", "reference"])
def test_what_a_cpu_gets(name: str) -> None:
    expected = "gathered" if name == "auto" else name
    assert choose(Need(torch.device("cpu"), torch.float32), name).name == expected


@pytest.mark.parametrize(
    ("wanted", "device", "dtype", "why"),
    [
        ("varlen", "cpu", torch.bfloat16, "'varlen' runs on CUDA, not on cpu"),
        ("varlen", "cuda", torch.float32, "computes in bfloat16 or float16, not in float32"),
        ("triton", "cpu", torch.bfloat16, "'triton' "),
        (
            "fast",
            "cpu",
            torch.float32,
            "no attention named 'fast'; there are: auto, triton, varlen, flash, gathered, reference",
        ),
    ],
)
def test_what_can_not_be_had_is_refused_with_the_reason(wanted: str, device: str, dtype: torch.dtype, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        choose(Need(torch.device(device), dtype), wanted)


def test_rows_that_read_find_all_their_keys_in_order() -> None:
    """What torch's flash attention is given on CUDA, where it is the keys of all rows one after the other."""
    made = forward([9, 30], [(5, 0), (7, 11), (1, 3)], LLAMA)
    rows = rows_of(made.layout, made.block_size)
    assert rows.query_starts.tolist() == [0, 5, 12, 13]
    assert rows.key_starts.tolist() == [0, 5, 23, 27]
    assert (rows.most_queries, rows.most_keys) == (7, 18)
    assert rows.cells is not None
    places = [(row, place) for row, length in ((2, 5), (3, 18), (4, 4)) for place in range(length)]
    tables = made.layout.tables
    assert rows.cells.tolist() == [int(tables[row, place // 4]) * 4 + place % 4 for row, place in places]


def test_rows_that_read_from_their_beginning_need_no_page() -> None:
    made = forward([9], [(5, 0), (7, 0)], LLAMA)
    assert rows_of(made.layout, made.block_size).cells is None
