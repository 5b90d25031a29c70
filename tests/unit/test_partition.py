"""Layers to stages: nothing is quicker than what is found."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engines.causal.pipeline.partition import Times, agreed, split

SECONDS = st.floats(0.001, 10)


def slowest(times: list[Times], cuts: list[range]) -> float:
    """The time of the stage that takes longest."""
    whole = [sum(own.layers[layer] for layer in cut) for own, cut in zip(times, cuts, strict=True)]
    whole[0] += times[0].before
    whole[-1] += times[-1].after
    return max(whole)


@given(st.data())
def test_no_other_cut_is_quicker(data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, 4))
    layers = data.draw(st.integers(stages, 7))
    times = [
        Times(data.draw(st.lists(SECONDS, min_size=layers, max_size=layers)), data.draw(SECONDS), data.draw(SECONDS))
        for _ in range(stages)
    ]
    found = split(times)
    assert [layer for cut in found for layer in cut] == list(range(layers))
    assert all(found)
    ways = [
        [range(begin, end) for begin, end in zip([0, *at], [*at, layers], strict=True)]
        for at in combinations(range(1, layers), stages - 1)
    ]
    assert slowest(times, found) == pytest.approx(min(slowest(times, way) for way in ways))


def test_a_head_counts_as_the_layers_it_takes_as_long_as() -> None:
    alike = Times([1.0] * 30, before=0.1, after=8.0)
    assert split([alike, alike]) == [range(19), range(19, 30)]


def test_a_slower_device_gets_fewer_layers() -> None:
    assert split([Times([1.0] * 9, 0, 0), Times([2.0] * 9, 0, 0)]) == [range(6), range(6, 9)]


def test_there_are_no_stages_without_layers() -> None:
    with pytest.raises(ValueError, match="a model of 2 layers can't be 3 stages"):
        split([Times([1.0, 1.0], 0, 0)] * 3)


def test_devices_of_a_kind_agree_on_the_least() -> None:
    times = [Times([3.0, 1.0], 5, 1), Times([2.0, 2.0], 4, 2), Times([9.0, 9.0], 9, 9)]
    best = Times([2.0, 1.0], 4, 1)
    assert agreed(times, ["cpu", "cpu", "other"]) == [best, best, times[2]]
