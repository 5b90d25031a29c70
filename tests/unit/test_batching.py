from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from ktqueue.batching import Rules, cut, next_batch

LENGTHS = st.lists(st.integers(0, 600), max_size=120)
RULES = st.builds(Rules, budget=st.integers(16, 4096), overhead=st.integers(0, 500))

untimed = settings(deadline=None)


def padded(batch: list[int], lengths: list[int]) -> int:
    return len(batch) * max(lengths[index] for index in batch)


def cost(batches: list[list[int]], lengths: list[int], rules: Rules) -> int:
    return sum(padded(batch, lengths) + rules.overhead for batch in batches)


def chunks(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def log_normal(count: int) -> list[int]:
    source = random.Random(0)
    return [max(3, min(256, round(source.lognormvariate(3.2, 0.9)))) for _ in range(count)]


@untimed
@given(LENGTHS, RULES)
def test_every_text_is_in_exactly_one_batch(lengths: list[int], rules: Rules) -> None:
    assert sorted(index for batch in cut(lengths, rules) for index in batch) == list(range(len(lengths)))


@untimed
@given(LENGTHS, RULES)
def test_only_a_single_text_goes_over_the_budget(lengths: list[int], rules: Rules) -> None:
    assert all(len(batch) == 1 or padded(batch, lengths) <= rules.budget for batch in cut(lengths, rules))


@untimed
@given(LENGTHS.filter(bool), RULES)
def test_padding_all_alike_or_only_equals_together_is_never_cheaper(lengths: list[int], rules: Rules) -> None:
    best = cost(cut(lengths, rules), lengths, rules)
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    all_alike = len(lengths) * max(lengths)
    batches_of_all = -(-len(lengths) // max(1, rules.budget // max(1, *lengths, 1)))
    assert best <= all_alike + batches_of_all * rules.overhead
    equals = [
        part
        for length in sorted(set(lengths))
        for part in chunks(
            [index for index in by_length if lengths[index] == length], max(1, rules.budget // max(1, length))
        )
    ]
    assert best <= cost(equals, lengths, rules)


def test_texts_of_mixed_lengths_waste_less_than_in_plain_batches() -> None:
    lengths, rules = log_normal(192), Rules(budget=2048, overhead=48)
    as_they_came = chunks(list(range(192)), 32)
    by_length = chunks(sorted(range(192), key=lengths.__getitem__), 32)
    best = cost(cut(lengths, rules), lengths, rules)
    assert best < 0.75 * cost(by_length, lengths, rules)
    assert best < 0.3 * cost(as_they_came, lengths, rules)


def test_a_costly_start_makes_fewer_batches() -> None:
    lengths = log_normal(192)
    counts = [len(cut(lengths, Rules(budget=100_000, overhead=overhead))) for overhead in (0, 48, 1000, 1_000_000)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == len(set(lengths))
    assert counts[-1] == 1


@untimed
@given(LENGTHS.filter(bool), RULES)
def test_the_next_batch_holds_the_oldest_text(lengths: list[int], rules: Rules) -> None:
    assert 0 in next_batch(lengths, rules)


@untimed
@given(st.lists(st.lists(st.integers(1, 60), max_size=6), min_size=1, max_size=15), RULES)
def test_nobody_waits_for_more_batches_than_there_were_older_texts(arrivals: list[list[int]], rules: Rules) -> None:
    waiting: list[tuple[int, int]] = []
    patience: dict[int, int] = {}
    arrived = 0
    while arrivals or waiting:
        for length in arrivals.pop(0) if arrivals else []:
            patience[arrived] = len(waiting) + 1
            waiting.append((arrived, length))
            arrived += 1
        if not waiting:
            continue
        for text, _ in waiting:
            patience[text] -= 1
            assert patience[text] >= 0
        served = set(next_batch([length for _, length in waiting], rules))
        waiting = [entry for index, entry in enumerate(waiting) if index not in served]
