"""What attention keeps from forward to forward is always what the pages hold."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, zip_longest

import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.engines.causal.attention.base import Layout, Pages
from worker.engines.causal.attention.gathered import Gathered
from worker.engines.causal.attention.mirror import Mirror
from worker.engines.causal.attention.reference import Reference

BLOCK, WIDTH, SEQUENCES = 4, 84, 6
LAYERS = 2


class Story:
    """Sequences that grow by a token in each forward they are in, or by some more, each with pages of its own."""

    def __init__(self, keep_tokens: int, *windows: int | None) -> None:
        self._random = torch.Generator().manual_seed(7)
        self._kept, self._plain = Gathered(keep_tokens), Reference()
        self._windows = windows
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

    def forward(
        self, owners: Sequence[int], *, layers: int = LAYERS, drafts: Sequence[int] = (), right: int = 0
    ) -> None:
        """These decode; each layer's answer is held against the definition.

        They have so many ``drafts``, as far as those go, of which up to ``right`` come true.
        """
        news = [1 + draft for draft, _ in zip_longest(drafts[: len(owners)], owners, fillvalue=0)]
        lengths = [self._lengths[owner] + new for owner, new in zip(owners, news, strict=True)]
        starts = [0, *accumulate(news)]
        each = list(zip(owners, lengths, news, strict=True))
        layout = Layout(
            decodes=len(owners),
            starts=torch.tensor(starts, dtype=torch.int32),
            lengths=torch.tensor(lengths, dtype=torch.int32),
            tables=torch.stack([1 + owner * WIDTH + torch.arange(WIDTH, dtype=torch.int32) for owner in owners]),
            cells=torch.cat([self._cells(owner, length)[-new:] for owner, length, new in each]),
            row_starts=starts,
            row_lengths=lengths,
            owners=list(owners),
        )
        for attention in (self._kept, self._plain):
            attention.begin(layout, BLOCK)
        for pages, window in list(zip(self._pages, self._windows, strict=True))[:layers]:
            query, key, value = (torch.randn(starts[-1], heads, 8, generator=self._random) for heads in (4, 2, 2))
            expected, answer = (
                each.attend(query, key, value, pages, scale=0.3, window=window, softcap=None)
                for each in (self._plain, self._kept)
            )
            assert torch.allclose(answer, expected, atol=1e-5)
        if layers == LAYERS:
            self._lengths |= {owner: length - max(0, new - 1 - right) for owner, length, new in each}


steps = st.tuples(
    st.lists(st.sampled_from(range(SEQUENCES)), min_size=1, max_size=4, unique=True),
    st.integers(1, 12),
    st.booleans(),
    st.lists(st.integers(0, 4), max_size=4),
)


@given(
    story=st.lists(steps, min_size=1, max_size=5),
    keep_tokens=st.sampled_from([0, 200, 10_000]),
    windows=st.lists(st.sampled_from([None, 5, 12, 20, 90]), min_size=LAYERS, max_size=LAYERS),
    right=st.integers(0, 4),
)
def test_whoever_comes_and_goes(
    story: list[tuple[list[int], int, bool, list[int]]], keep_tokens: int, windows: list[int | None], right: int
) -> None:
    told = Story(keep_tokens, *windows)
    for owners, forwards, broken, drafts in story:
        if broken:
            told.forward(owners, layers=1, drafts=drafts)
        for forward in range(forwards):
            told.forward(owners, drafts=drafts[forward % 3 :] if forward % 4 else (), right=right)


def test_rows_that_outgrow_their_room() -> None:
    told = Story(10_000, None, None)
    for _ in range(50):
        told.forward([4, 3, 1])


def test_rows_that_outgrow_the_window_of_some_layers() -> None:
    """A layer that looks back no further stops asking, and the one after it is not taken for it."""
    told = Story(10_000, 20, None)
    for _ in range(20):
        told.forward([2, 1])


def kept(mirror: Mirror, lengths: Sequence[int], owner: int) -> int:
    """Tokens that what a forward of one layer reads has room for, of rows that were not there before."""
    width = -(-max(lengths) // BLOCK)
    layout = Layout(
        decodes=len(lengths),
        starts=torch.arange(len(lengths) + 1, dtype=torch.int32),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        tables=torch.ones(len(lengths), width, dtype=torch.int32),
        cells=torch.full((len(lengths),), BLOCK),
        row_starts=list(range(len(lengths) + 1)),
        row_lengths=list(lengths),
        owners=list(range(owner, owner + len(lengths))),
    )
    mirror.begin(layout, BLOCK, frozenset({None}))
    new = torch.zeros(len(lengths), 1, 1)
    sides = mirror.sides(Pages(torch.zeros(2, BLOCK, 1, 1), torch.zeros(2, BLOCK, 1, 1)), new, new)
    storages = [part.untyped_storage() for group in sides for part in (group.keys, group.values)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()) // (2 * new.element_size())


def test_no_more_is_kept_than_there_is_room_for_though_each_group_was_large_once() -> None:
    most, longest = 20_000, [1600, 800, 400, 200, 100]
    mirror = Mirror(most)
    for index, length in enumerate(longest):
        before = longest[:index]
        rows = (most - sum(2 * each + 32 for each in before)) // (2 * length + 32)
        held = kept(mirror, [*before, *[length] * rows], owner=100 * index)
        assert held <= most
    small = kept(mirror, longest, owner=1000)
    assert small <= most
    # They are still the same: nothing is taken anew when rows come and go.
    assert small >= held
