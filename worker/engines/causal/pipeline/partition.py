"""Which layers go to which stage. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Times:
    """What a stage's device takes for each of all the layers, for what comes before them and what after, in seconds."""

    layers: Sequence[float]
    before: float
    after: float


def agreed(times: Sequence[Times], kinds: Sequence[str]) -> list[Times]:
    """What stages of one kind of device found together: the least of each, for whatever disturbs only adds to it."""
    alike = [[own for own, kind in zip(times, kinds, strict=True) if kind == mine] for mine in kinds]
    return [
        Times(
            [min(seconds) for seconds in zip(*(own.layers for own in group), strict=True)],
            min(own.before for own in group),
            min(own.after for own in group),
        )
        for group in alike
    ]


def split(times: Sequence[Times]) -> list[range]:
    """The layers of each stage, in order, so that the slowest takes the least time; each has one at least.

    ``times`` has an entry a stage. Raises ValueError if there are fewer layers than stages.
    """
    stages, layers = len(times), len(times[0].layers)
    if layers < stages:
        raise ValueError(f"a model of {layers} layers can't be {stages} stages")
    # best[end]: the least time of the slowest of the stages so far, over the first `end` layers, and how it is reached.
    best: dict[int, tuple[float, list[range]]] = {0: (0.0, [])}
    for stage, own in enumerate(times):
        sums = [0.0]
        for seconds in own.layers:
            sums.append(sums[-1] + seconds)
        extra = (own.before if stage == 0 else 0.0) + (own.after if stage == stages - 1 else 0.0)
        later = stages - stage - 1
        ends = range(stage + 1, layers - later + 1) if later else range(layers, layers + 1)
        best = {
            end: min(
                (
                    (max(slowest, sums[end] - sums[begin] + extra), [*cuts, range(begin, end)])
                    for begin, (slowest, cuts) in best.items()
                    if begin < end
                ),
                key=lambda found: found[0],
            )
            for end in ends
        }
    return best[layers][1]
