"""Triton kernels: one new token a row attends over keys and values in pages, which take its own key and value too.

Flash decoding (Dao et al., 2023) over block tables (Kwon et al., 2023, PagedAttention). A program has one row and one
key head, all the query heads that share it, and one of ``splits`` equal parts of what the row sees. It reads its part
a tile of keys at a time with a running maximum (Milakov and Gimelshein, 2018). With more than one part a second kernel
puts them together by the logarithm of each one's sum of weights. How many programs there are depends on shapes alone
and lengths are read on the device, so that a CUDA graph can hold both launches.

The new token never goes through memory: it starts the running sum of the first part, while its key and value are on
their way to their cell. So no program waits for another's write. Cells past a row's length are never loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from worker.engines.causal.attention.base import Layout, Pages

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
_MOST_SPLITS = 32
# The matrix units take no less in any direction.
_LEAST = 16


@dataclass(frozen=True, slots=True)
class Tiling:
    """How many keys a tile has, how many warps share a program, and how many stages its loads are spread over.

    A tile's keys wait for its blocks, so that two tiles are under way from the fifth stage on.
    """

    tile: int
    warps: int
    stages: int


TILING = Tiling(tile=16, warps=2, stages=5)
"""The quickest on an H200 for 1 to 256 rows of 400 and 4,000 tokens, or within 3 % of it: docs/benchmarks.md."""


def splits_for(rows: int, kv_heads: int, processors: int) -> int:
    """In how many parts a row is read: a power of two, so that each processor has about four programs."""
    wanted = 4 * processors // (rows * kv_heads)
    return min(_MOST_SPLITS, 1 << max(0, wanted.bit_length() - 1))


def decode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pages: Pages,
    layout: Layout,
    out: torch.Tensor,
    *,
    block_size: int,
    splits: int,
    tiling: Tiling,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> None:
    """The first ``layout.decodes`` tokens: their keys and values into ``pages``, their answers into ``out``.

    As `Attention.attend` says; the last dim of every tensor is contiguous, and so are ``pages`` and ``out``.
    """
    rows, kv_heads = layout.decodes, key.shape[1]
    group, dim, value_dim = query.shape[1] // kv_heads, query.shape[2], value.shape[2]
    # One part is the answer, and its weight is not wanted.
    parts = out if splits == 1 else out.new_empty(rows, query.shape[1], splits, value_dim, dtype=torch.float32)
    weights = out if splits == 1 else out.new_empty(rows, query.shape[1], splits, dtype=torch.float32)
    _decode[kv_heads, rows, splits](
        query, key, value, pages.keys, pages.values, layout.tables, layout.lengths, layout.cells, parts, weights,
        scale,
        query.stride(0), query.stride(1), key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        layout.tables.stride(0),
        KV_HEADS=kv_heads, GROUP=group, QUERIES=_padded(group),
        DIM=dim, DIM_PADDED=_padded(dim),
        VALUE_DIM=value_dim, VALUE_PADDED=_padded(value_dim),
        BLOCK=block_size, SPLITS=splits, WINDOW=window or 0, SOFTCAP=softcap or 0.0,
        TILE=tiling.tile, num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    if splits > 1:
        _merge[rows * query.shape[1],](
            parts, weights, out, SPLITS=splits, VALUE_DIM=value_dim, VALUE_PADDED=_padded(value_dim),
            num_warps=4,
        )  # fmt: skip


def _padded(size: int) -> int:
    return max(_LEAST, 1 << (size - 1).bit_length())


@triton.jit
def _decode(
    query: tl.tensor, key: tl.tensor, value: tl.tensor, keys: tl.tensor, values: tl.tensor,
    tables: tl.tensor, lengths: tl.tensor, cells: tl.tensor, parts: tl.tensor, weights: tl.tensor,
    scale: tl.tensor,
    query_row: tl.tensor, query_head: tl.tensor, key_row: tl.tensor, key_head: tl.tensor,
    value_row: tl.tensor, value_head: tl.tensor, table_row: tl.tensor,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, QUERIES: tl.constexpr,
    DIM: tl.constexpr, DIM_PADDED: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_PADDED: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(0)
    row = tl.program_id(1)
    split = tl.program_id(2)
    past = tl.load(lengths + row) - 1
    member = tl.arange(0, QUERIES)
    at = tl.arange(0, DIM_PADDED)
    value_at = tl.arange(0, VALUE_PADDED)
    in_key = at < DIM
    in_value = value_at < VALUE_DIM

    queries = tl.load(
        query + row * query_row + (head * GROUP + member[:, None]) * query_head + at[None, :],
        mask=(member[:, None] < GROUP) & in_key[None, :],
        other=0.0,
    )
    new_key = tl.load(key + row * key_row + head * key_head + at, mask=in_key, other=0.0)
    new_value = tl.load(value + row * value_row + head * value_head + value_at, mask=in_value, other=0.0)
    is_first = split == 0
    cell = tl.load(cells + row) * KV_HEADS + head
    tl.store(keys + cell * DIM + at, new_key, mask=in_key & is_first)
    tl.store(values + cell * VALUE_DIM + value_at, new_value, mask=in_value & is_first)

    score = _scores(tl.sum(queries.to(tl.float32) * new_key.to(tl.float32)[None, :], axis=1), scale, SOFTCAP)
    most = tl.where(is_first, score, float("-inf"))
    total = tl.where(is_first, 1.0, 0.0) + tl.zeros([QUERIES], dtype=tl.float32)
    answer = tl.where(is_first, new_value.to(tl.float32), 0.0)[None, :] + tl.zeros(
        [QUERIES, VALUE_PADDED], dtype=tl.float32
    )

    oldest = tl.maximum(past + 1 - WINDOW, 0) if WINDOW > 0 else 0
    begin, end = _part(oldest, past, split, TILE, SPLITS)
    for start in tl.range(begin, end, TILE):
        place = start + tl.arange(0, TILE)
        seen = (place < past) & (place >= oldest)
        block = tl.load(tables + row * table_row + place // BLOCK, mask=seen, other=0).to(tl.int64)
        old = (block * BLOCK + place % BLOCK) * KV_HEADS + head
        old_keys = tl.load(keys + old[:, None] * DIM + at[None, :], mask=seen[:, None] & in_key[None, :], other=0.0)
        scores = _scores(tl.dot(queries, tl.trans(old_keys)), scale, SOFTCAP)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, axis=1))
        fading = tl.exp2(most - higher)
        weight = tl.exp2(scores - higher[:, None])
        old_values = tl.load(
            values + old[:, None] * VALUE_DIM + value_at[None, :], mask=seen[:, None] & in_value[None, :], other=0.0
        )
        answer = tl.dot(weight.to(old_values.dtype), old_values, answer * fading[:, None])
        total = total * fading + tl.sum(weight, axis=1)
        most = higher

    # A part that has nothing to read weighs nothing, and divides by nothing.
    answer = answer / tl.where(total > 0, total, 1.0)[:, None]
    one = row * (KV_HEADS * GROUP) + head * GROUP + member
    inside = member < GROUP
    if SPLITS > 1:
        one = one * SPLITS + split
        tl.store(weights + one, most + tl.log2(total), mask=inside)
    tl.store(
        parts + one[:, None] * VALUE_DIM + value_at[None, :],
        answer.to(parts.dtype.element_ty),
        mask=inside[:, None] & in_value[None, :],
    )


@triton.jit
def _part(oldest: tl.tensor, past: tl.tensor, split: tl.tensor, TILE: tl.constexpr, SPLITS: tl.constexpr) -> tl.tensor:
    """From which place to which a part reads, of those from ``oldest`` on and before ``past``: whole tiles."""
    first = oldest // TILE
    tiles = tl.cdiv(tl.cdiv(past, TILE) - first, SPLITS)
    begin = (first + split * tiles) * TILE
    return begin, tl.minimum(begin + tiles * TILE, past)


@triton.jit
def _scores(product: tl.tensor, scale: tl.tensor, SOFTCAP: tl.constexpr) -> tl.tensor:
    """Of products of queries and keys, as powers of two."""
    scores = product * scale
    if SOFTCAP > 0:
        # tanh(x) is 1 - 2 / (e^2x + 1), whatever x.
        scores = SOFTCAP * (1 - 2 / (tl.exp2(scores * (2 * LOG2_E / SOFTCAP)) + 1))
    return scores * LOG2_E


@triton.jit
def _merge(
    parts: tl.tensor, weights: tl.tensor, out: tl.tensor,
    SPLITS: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_PADDED: tl.constexpr,
) -> None:  # fmt: skip
    """One row and head: the parts' answers, each with its share of the sum of weights."""
    one = tl.program_id(0)
    split = tl.arange(0, SPLITS)
    at = tl.arange(0, VALUE_PADDED)
    inside = at < VALUE_DIM
    weight = tl.load(weights + one * SPLITS + split)
    share = tl.exp2(weight - tl.max(weight, axis=0))
    answers = tl.load(
        parts + (one * SPLITS + split[:, None]) * VALUE_DIM + at[None, :], mask=inside[None, :], other=0.0
    )
    answer = tl.sum(answers * share[:, None], axis=0) / tl.sum(share, axis=0)
    tl.store(out + one * VALUE_DIM + at, answer.to(out.dtype.element_ty), mask=inside)
