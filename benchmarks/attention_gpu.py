"""What a layer's attention costs on the GPU at hand, in Qwen3-8B's shape: ``python -m benchmarks.attention_gpu``.

Every backend is held against the definition first. Keys and values of many layers take turns, so that what is timed
comes from memory and not from the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

import torch

from ktqueue.errors import ConfigurationError
from worker.engines.causal.attention.base import Attention, Layout, Pages
from worker.engines.causal.attention.choose import Need, choose
from worker.engines.causal.attention.reference import Reference

HEADS, KV_HEADS, DIM = 32, 8, 128
BYTES = 2 * KV_HEADS * DIM * 2  # of a token's key and value in one layer
DTYPE = torch.bfloat16
SCALE = DIM**-0.5
BLOCKS_OF = {"triton": 16, "varlen": 256, "flash": 256, "gathered": 16}
TURN = 256 << 20  # bytes that are read before any is read again
# (keys a tile, warps, stages, parts; 0: as many as the backend would choose)
VARIANTS = [(64, 4, 3, 0), (64, 4, 5, 0), (64, 8, 5, 0), (128, 8, 5, 0), (32, 4, 5, 0), (64, 4, 5, 2), (64, 4, 5, 4)]


def table() -> str:
    """Errors, then microseconds a layer: rows that decode, other tilings of our kernel, rows that read."""
    lines = ["backend   error   (relative, against float64)"]
    for attention, block in _backends():
        lines.append(f"{attention.name:9} {_error(attention, block):.1e}")
    lines.append("decode: batch context | floor at 4.27 TB/s | us a layer by backend, in a CUDA graph where it can be")
    for rows, context in ((1, 400), (64, 400), (256, 400), (1, 4000), (64, 4000), (256, 4000)):
        timed = (f"{each.name} {decode_us(each, block, rows, context):.1f}" for each, block in _backends())
        lines.append(f"{rows:4} {context:5} | {rows * context * BYTES / 4.27e6:7.1f} | {', '.join(timed)}")
        lines.append(f"           triton by tile/warps/stages/parts: {', '.join(_variants(rows, context))}")
    lines.append("read 8192 tokens in 40 rows, us a layer: nothing before them, 400 tokens before each")
    for attention, block in _backends():
        fresh, after = (_read_us(attention, block, before) for before in (0, 400))
        lines.append(f"{attention.name:9} {fresh:.0f}, {after:.0f}")
    return "\n".join(lines)


def decode_us(attention: Attention, block_size: int, rows: int, context: int) -> float:
    """Microseconds that one layer takes for so many rows of one token each."""
    layout = _layout([1] * rows, [context] * rows, rows, block_size)
    layers = [_pages(layout, block_size) for _ in range(_turns(rows, context))]
    fresh = _fresh(rows)

    def forward() -> None:
        attention.begin(layout, block_size)
        for pages in layers:
            attention.attend(*fresh, pages, scale=SCALE, window=None, softcap=None)

    return _us(_graph(forward) if attention.capturable else forward) / len(layers)


def _variants(rows: int, context: int) -> Iterator[str]:
    from worker.engines.causal.attention.paged_decode import Tiling, decode, splits_for  # noqa: PLC0415 - needs triton

    layout = _layout([1] * rows, [context] * rows, rows, 16)
    layers = [_pages(layout, 16) for _ in range(_turns(rows, context))]
    query, key, value = _fresh(rows)
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    for tile, warps, stages, parts in VARIANTS:
        splits = parts or splits_for(rows, KV_HEADS, processors)
        tiling = Tiling(tile, warps, stages)

        def forward(splits: int = splits, tiling: Tiling = tiling) -> None:
            for pages in layers:
                decode(
                    query, key, value, pages, layout, torch.empty_like(query),
                    block_size=16, splits=splits, tiling=tiling, scale=SCALE, window=None, softcap=None,
                )  # fmt: skip

        yield f"{tile}/{warps}/{stages}/{splits} {_us(_graph(forward)) / len(layers):.1f}"


def _read_us(attention: Attention, block_size: int, before: int) -> float:
    news = [204] * 39 + [8192 - 39 * 204]
    layout = _layout(news, [new + before for new in news], 0, block_size)
    layers = [_pages(layout, block_size) for _ in range(4)]
    fresh = _fresh(sum(news))

    def forward() -> None:
        attention.begin(layout, block_size)
        for pages in layers:
            attention.attend(*fresh, pages, scale=SCALE, window=None, softcap=None)

    return _us(forward) / len(layers)


def _error(attention: Attention, block_size: int) -> float:
    news, lengths = [1, 1, 1, 70, 9], [1, 65, 400, 70, 300]
    layout = _layout(news, lengths, 3, block_size)
    pages, fresh = _pages(layout, block_size), _fresh(sum(news))
    answers = []
    for each in (attention, Reference()):
        each.begin(layout, block_size)
        answers.append(each.attend(*fresh, pages, scale=SCALE, window=None, softcap=None).double())
    return float((answers[0] - answers[1]).norm() / answers[1].norm())


def _backends() -> Iterator[tuple[Attention, int]]:
    for name, block_size in BLOCKS_OF.items():
        try:
            yield choose(Need(torch.device("cuda"), DTYPE), name), block_size
        except ConfigurationError as unavailable:
            print(unavailable)


def _layout(news: Sequence[int], lengths: Sequence[int], decodes: int, block_size: int) -> Layout:
    """Rows whose blocks lie anywhere."""
    counts = [-(-length // block_size) for length in lengths]
    ids = torch.split((torch.randperm(sum(counts)) + 1).int(), counts)
    tables = torch.nn.utils.rnn.pad_sequence(list(ids), batch_first=True)
    places = [torch.arange(length - new, length) for new, length in zip(news, lengths, strict=True)]
    cells = [
        blocks[place // block_size].long() * block_size + place % block_size
        for blocks, place in zip(ids, places, strict=True)
    ]
    starts = torch.tensor([0, *news]).cumsum(0)
    return Layout(
        decodes,
        starts.int().cuda(),
        torch.tensor(lengths).int().cuda(),
        tables.cuda(),
        torch.cat(cells).cuda(),
        starts.tolist(),
        lengths,
    )


def _pages(layout: Layout, block_size: int) -> Pages:
    blocks = int(layout.tables.max()) + 1
    return Pages(*(torch.randn(blocks, block_size, KV_HEADS, DIM, device="cuda", dtype=DTYPE) for _ in range(2)))


def _fresh(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query, key, value = (
        torch.randn(tokens, heads, DIM, device="cuda", dtype=DTYPE) for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    return query, key, value


def _turns(rows: int, context: int) -> int:
    return max(1, min(64, TURN // (rows * context * BYTES)))


def _graph(forward: Callable[[], None]) -> Callable[[], None]:
    """The same launches without the host's part in them."""
    forward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    return graph.replay


def _us(forward: Callable[[], None]) -> float:
    """The median of ten, after two that do not count."""
    times: list[float] = []
    for _ in range(12):
        start, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
        start.record()
        forward()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000)
    return median(times[2:])


if __name__ == "__main__":
    with torch.inference_mode():
        print(table())
