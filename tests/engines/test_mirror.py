"""What attention keeps from forward to forward is always what the pages hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.engines.causal.attention.base import Layout, Pages
from worker.engines.causal.attention.gathered import Gathered
from worker.engines.causal.attention.reference import Reference

BLOCK, WIDTH, SEQUENCES = 4, 24, 6
LAYERS = 2


class Story:
    """Sequences that grow by a token in each forward they are in, each with pages of its own."""

    def __init__(self, keep_tokens: int, window: int | None) -> None:
        self._random = torch.Generator().manual_seed(7)
        self._kept, self._plain = Gathered(keep_tokens), Reference()
        self._windows = (None, window)
        shape = (SEQUENCES * WIDTH + 1, BLOCK, 2, 8)
        self._pages = [Pages(*(torch.full(shape, torch.nan) for _ in range(2))) for _ in range(LAYERS)]
        self._lengths = dict.fromkeys(range(SEQUENCES), 0)
        for owner, length in enumerate((1, 9, 10, 17, 30, 3)):
            for pages in self._pages:
                for part in (pages.keys, pages.values):
                    part.flatten(0, 1)[self._cells(owner, length)] = torch.randn(length, 2, 8, generator=self._random)
            self._lengths[owner] = length

    @staticmethod
    def _cells(owner: int, length: int) -> torch.Tensor:
        return 4 + owner * WIDTH * BLOCK + torch.arange(length)

    def forward(self, owners: Sequence[int], *, layers: int = LAYERS) -> None:
        """These decode; each layer's answer is held against the definition."""
        lengths = [self._lengths[owner] + 1 for owner in owners]
        layout = Layout(
            decodes=len(owners),
            starts=torch.arange(len(owners) + 1, dtype=torch.int32),
            lengths=torch.tensor(lengths, dtype=torch.int32),
            tables=torch.stack([1 + owner * WIDTH + torch.arange(WIDTH, dtype=torch.int32) for owner in owners]),
            cells=torch.stack([self._cells(*each)[-1] for each in zip(owners, lengths, strict=True)]),
            row_starts=range(len(owners) + 1),
            row_lengths=lengths,
            owners=list(owners),
        )
        for attention in (self._kept, self._plain):
            attention.begin(layout, BLOCK)
        for pages, window in list(zip(self._pages, self._windows, strict=True))[:layers]:
            query, key, value = (torch.randn(len(owners), heads, 8, generator=self._random) for heads in (4, 2, 2))
            expected, answer = (
                each.attend(query, key, value, pages, scale=0.3, window=window, softcap=None)
                for each in (self._plain, self._kept)
            )
            assert torch.allclose(answer, expected, atol=1e-5)
        if layers == LAYERS:
            self._lengths |= dict(zip(owners, lengths, strict=True))


steps = st.tuples(
    st.lists(st.sampled_from(range(SEQUENCES)), min_size=1, max_size=4, unique=True),
    st.integers(1, 12),
    st.booleans(),
)


@given(
    story=st.lists(steps, min_size=1, max_size=5),
    keep_tokens=st.sampled_from([0, 200, 10_000]),
    window=st.none() | st.sampled_from([5, 20, 90]),
)
def test_whoever_comes_and_goes(story: list[tuple[list[int], int, bool]], keep_tokens: int, window: int | None) -> None:
    told = Story(keep_tokens, window)
    for owners, forwards, broken in story:
        if broken:
            told.forward(owners, layers=1)
        for _ in range(forwards):
            told.forward(owners)


def test_rows_that_outgrow_their_room() -> None:
    told = Story(10_000, None)
    for _ in range(50):
        told.forward([4, 3, 1])
