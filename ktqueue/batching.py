"""Which waiting texts run together: length-sorted batches under a padded-token budget. Pure.

A batch is a rectangle: every text in it is padded to its longest. Taken as they come, texts of mixed lengths make
batches that are mostly padding, slower than no batches at all. So the waiting texts are sorted by length and cut
where padding and the fixed cost of a batch add up to least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """``budget``: most padded tokens (count times longest) of a batch; only a single text may be longer.

    ``overhead``: what starting one more batch costs, told in tokens computed in the same time.
    """

    budget: int
    overhead: int


def next_batch(lengths: Sequence[int], rules: Rules) -> list[int]:
    """The batch that holds the oldest text, as indices into ``lengths``: tokens per text, oldest first.

    Each batch serves the oldest text that waits, so whatever keeps arriving, a text waits for at most as many
    batches as there are texts older than it.
    """
    return next(batch for batch in cut(lengths, rules) if 0 in batch)


def cut(lengths: Sequence[int], rules: Rules) -> list[list[int]]:
    """Every index into ``lengths`` in exactly one batch, each batch sorted by length, the longest first."""
    batches: list[list[int]] = []
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    for run in _runs([lengths[index] for index in order], rules):
        size = _size(lengths[order[run.start]], rules)
        batches += [order[start : min(start + size, run.stop)] for start in range(run.start, run.stop, size)]
    return batches


def _runs(descending: Sequence[int], rules: Rules) -> list[range]:
    """Cut sorted lengths into runs whose padding and overheads add up to least; all in one run is padded alike.

    Dynamic programming over the distinct lengths, so its work is the square of their number and not of the texts'.
    """
    edges = [i for i, length in enumerate(descending) if i == 0 or length != descending[i - 1]] + [len(descending)]
    least = [0] + [-1] * (len(edges) - 1)
    came_from = [0] * len(edges)
    for stop in range(1, len(edges)):
        for start in range(stop):
            longest, count = descending[edges[start]], edges[stop] - edges[start]
            cost = least[start] + count * longest + rules.overhead * -(-count // _size(longest, rules))
            if least[stop] < 0 or cost < least[stop]:
                least[stop], came_from[stop] = cost, start
    runs: list[range] = []
    stop = len(edges) - 1
    while stop > 0:
        runs.append(range(edges[came_from[stop]], edges[stop]))
        stop = came_from[stop]
    return runs[::-1]


def _size(longest: int, rules: Rules) -> int:
    return max(1, rules.budget // max(1, longest))
