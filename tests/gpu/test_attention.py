"""The attention backends on CUDA against the definition in float64, and what a graph captures of them."""

from __future__ import annotations

import pytest
import torch

from ktqueue.errors import ConfigurationError
from tests.support.attention import Forward, Shape, forward
from worker.engines.causal.attention.base import Attention, LayerShape
from worker.engines.causal.attention.choose import Need, choose
from worker.engines.causal.attention.reference import Reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

CUDA = torch.device("cuda")
HALVES = [torch.bfloat16, torch.float16]
SHAPES = [
    Shape(8, 4, 128, 128),
    Shape(3, 3, 64, 64),
    Shape(1, 1, 8, 8),
    Shape(2, 20, 96, 96),
    Shape(2, 4, 256, 256),
    Shape(2, 4, 192, 128),
]
DECODING = [1, 2, 17, 64, 65, 400, 1031]
READING = [(200, 0), (1, 0), (33, 500)]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (64, None), (None, 20.0), (100, 5.0)])
def test_triton_answers_as_defined(dtype: torch.dtype, shape: Shape, window: int | None, softcap: float | None) -> None:
    attention = choose(Need(CUDA, dtype), "triton")
    for decoding, reading, padding in (
        (DECODING, [], 3),
        ([], READING, 0),
        ([], [(50, 0), (7, 0)], 0),
        (DECODING, READING, 0),
    ):
        made = forward(decoding, reading, shape, block_size=16, padding=padding, dtype=dtype, device="cuda")
        made.check(attention, window=window, softcap=softcap)


@pytest.mark.parametrize("block_size", [8, 32, 256])
@pytest.mark.parametrize("rows", [1, 9, 70, 300])
def test_triton_divides_any_batch_and_reads_any_block_size(rows: int, block_size: int) -> None:
    lengths = [1 + 37 * row % 700 for row in range(rows)]
    made = forward(lengths, [], SHAPES[0], block_size=block_size, dtype=torch.bfloat16, device="cuda")
    made.check(choose(Need(CUDA, torch.bfloat16), "triton"))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (64, None), (None, 20.0)])
def test_gathered_answers_as_defined(
    dtype: torch.dtype, shape: Shape, window: int | None, softcap: float | None
) -> None:
    made = forward(DECODING, READING, shape, block_size=16, dtype=dtype, device="cuda")
    made.check(choose(Need(CUDA, dtype), "gathered"), window=window, softcap=softcap)


@pytest.mark.parametrize("name", ["varlen", "flash"])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1]], ids=str)
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (64, None), (None, 20.0)])
def test_flash_over_pages_answers_as_defined(
    name: str, dtype: torch.dtype, shape: Shape, window: int | None, softcap: float | None
) -> None:
    attention = _if_there_is(
        name, dtype, LayerShape(shape.kv_heads, shape.dim, shape.value_dim, dtype, window, softcap)
    )
    for decoding, reading, padding in ((DECODING, [], 3), ([], READING, 0), (DECODING, READING, 0)):
        made = forward(decoding, reading, shape, block_size=256, padding=padding, dtype=dtype, device="cuda")
        made.check(attention, window=window, softcap=softcap)


@pytest.mark.parametrize("name", ["triton", "varlen", "flash"])
@pytest.mark.parametrize("rows", [1, 64])
def test_a_captured_decode_reads_lengths_and_tables_anew(name: str, rows: int) -> None:
    """The graph is of the longest rows; replayed, it answers for others that lie elsewhere."""
    attention = _if_there_is(name, torch.bfloat16)
    size = attention.block_size
    captured = forward([1000] * rows, [], SHAPES[0], block_size=size, dtype=torch.bfloat16, device="cuda")
    lengths = [1 + 29 * row % 1000 for row in range(rows)]
    other = forward(lengths, [], SHAPES[0], block_size=size, dtype=torch.bfloat16, device="cuda", seed=1)
    _attend(attention, captured)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = _attend(attention, captured)
    expected, _ = other.by(Reference())
    blocks, width = len(other.pages.keys), other.layout.tables.shape[1]
    captured.layout.tables.zero_()[:, :width] = other.layout.tables
    for mine, its in (
        (captured.layout.lengths, other.layout.lengths),
        (captured.layout.cells, other.layout.cells),
        (captured.query, other.query),
        (captured.key, other.key),
        (captured.value, other.value),
        (captured.pages.keys[:blocks], other.pages.keys),
        (captured.pages.values[:blocks], other.pages.values),
    ):
        mine.copy_(its)
    graph.replay()
    error = (answer.double() - expected.double()).norm() / expected.double().norm()
    assert float(error) < 0.03


def _if_there_is(name: str, dtype: torch.dtype, *shapes: LayerShape) -> Attention:
    try:
        return choose(Need(CUDA, dtype, shapes), name)
    except ConfigurationError as unavailable:
        pytest.skip(str(unavailable))


def _attend(attention: Attention, made: Forward) -> torch.Tensor:
    attention.begin(made.layout, made.block_size)
    return attention.attend(made.query, made.key, made.value, made.pages, scale=0.3, window=None, softcap=None)
