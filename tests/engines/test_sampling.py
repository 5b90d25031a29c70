from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.support.sampling import (
    ANSWER,
    ENDS,
    PROMPT,
    VOCABULARY,
    chances,
    draw,
    entry,
    last,
    logits,
    sampler_of,
    surprise,
)
from worker.engines.causal import sampler as sampler_module
from worker.engines.causal.cutoff import FEW, Limits, by_bisection, by_sorting
from worker.engines.causal.sampler import GREEDY, Features, Sampler
from worker.engines.causal.sampling import Sampling, largest_token, sampling_of
from worker.engines.causal.uniform import stream_of, uniforms
from worker.engines.causal.weights import BLOCK, masses, pick

untimed = settings(deadline=None)
WISHES = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-9, 0.01, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 5, VOCABULARY, 10_000]),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.3]),
    presence_penalty=st.sampled_from([-1.5, 0.0, 0.7]),
    frequency_penalty=st.sampled_from([-0.4, 0.0, 1.1]),
    logit_bias=st.sampled_from([(), ((3, 2.5), (7, -100.0)), ((0, 100.0),)]),
    min_tokens=st.sampled_from([0, 4, 5, 100]),
    stop_token_ids=st.sampled_from([frozenset[int](), frozenset([5, 6])]),
    ignore_eos=st.booleans(),
)
EVERYTHING = Sampling(
    temperature=0.8,
    top_k=20,
    top_p=0.9,
    min_p=0.02,
    repetition_penalty=1.2,
    presence_penalty=0.5,
    frequency_penalty=0.2,
    logit_bias=((11, 2.0), (12, -1.0)),
    min_tokens=9,
    stop_token_ids=frozenset([5]),
)
EACH = {
    "nothing": Sampling(temperature=1.0),
    "cold": Sampling(temperature=0.4),
    "hot": Sampling(temperature=2.0),
    "top_k": Sampling(temperature=1.5, top_k=5),
    "top_p": Sampling(temperature=1.5, top_p=0.7),
    "min_p": Sampling(temperature=1.5, min_p=0.1),
    "repetition": Sampling(temperature=1.0, repetition_penalty=1.7),
    "presence": Sampling(temperature=1.0, presence_penalty=2.0),
    "frequency": Sampling(temperature=1.0, frequency_penalty=-1.0),
    "bias": Sampling(temperature=1.0, logit_bias=((3, 4.0), (8, -100.0))),
    "min_tokens": Sampling(temperature=1.0, min_tokens=5, stop_token_ids=frozenset([9])),
    "greedy": Sampling(repetition_penalty=1.3),
    "everything": EVERYTHING,
}


def one_draw(row: torch.Tensor, wish: Sampling, seed: int = 0) -> int:
    return int(draw(sampler_of(entry(0, wish, seed=seed)), row, [0]).tokens)


# --- how draws are spread ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EACH)
def test_draws_are_spread_by_the_exact_chances(name: str) -> None:
    wish, count = EACH[name], 3000
    row = logits(1, seed=5)
    sampler = sampler_of(*(entry(slot, wish, seed=slot) for slot in range(count)))
    drawn = draw(sampler, row.expand(count, -1), range(count))
    assert bool(drawn.healthy.all())
    assert abs(surprise(drawn.tokens.tolist(), chances(row[0], wish))) < 3.5


def test_one_streams_draws_are_spread_by_the_exact_chances() -> None:
    row, wish = logits(1, seed=6), Sampling(temperature=1.0, seed=1)
    sampler = sampler_of(entry(0, wish))
    tokens = [int(draw(sampler, row, [0], drawn=drawn).tokens) for drawn in range(3000)]
    assert abs(surprise(tokens, chances(row[0], wish))) < 3.5
    # Nor does a draw say anything of the next.
    pairs = [first * VOCABULARY + second for first, second in zip(tokens[::2], tokens[1::2], strict=True)]
    alone = chances(row[0], wish)
    assert abs(surprise(pairs, [first * second for first in alone for second in alone])) < 3.5


@untimed
@given(WISHES, st.integers(0, 20))
def test_weights_are_those_of_the_reference(wish: Sampling, seed: int) -> None:
    row = logits(1, seed=seed)
    expected = torch.tensor(chances(row[0], wish))
    if wish.temperature < 1e-5:
        assert one_draw(row, wish) == int(expected.argmax())
        return
    assert torch.allclose(weights_of(row, wish), expected, rtol=0, atol=1e-5)


def weights_of(row: torch.Tensor, wish: Sampling) -> torch.Tensor:
    """What the sampler draws by, as chances."""
    seen: list[torch.Tensor] = []

    def spy(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        seen.append(weights.clone())
        return pick(weights, uniform)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_module, "pick", spy)
        one_draw(row, wish)
    (weights,) = seen
    assert not weights[:, row.shape[-1] :].any()
    return weights[0, : row.shape[-1]] / weights.sum()


@pytest.mark.parametrize("name", [name for name in EACH if name not in {"greedy", "presence", "frequency"}])
def test_weights_are_those_of_transformers(name: str) -> None:
    wish = replace(EACH[name], presence_penalty=0.0, frequency_penalty=0.0)
    row = logits(1, seed=8)
    steps = LogitsProcessorList()
    if wish.logit_bias:
        steps.append(SequenceBiasLogitsProcessor([[[token], bias] for token, bias in wish.logit_bias]))
    if wish.min_tokens:
        bars = sorted(ENDS | wish.stop_token_ids)
        steps.append(MinNewTokensLengthLogitsProcessor(len(PROMPT), wish.min_tokens, bars))
    steps.append(RepetitionPenaltyLogitsProcessor(wish.repetition_penalty))
    steps.append(TemperatureLogitsWarper(wish.temperature))
    if wish.top_k:
        steps.append(TopKLogitsWarper(wish.top_k))
    if wish.top_p < 1:
        steps.append(TopPLogitsWarper(wish.top_p))
    if wish.min_p:
        steps.append(MinPLogitsWarper(wish.min_p))
    expected = steps(torch.LongTensor([PROMPT + ANSWER]), row.clone()).softmax(-1)[0]
    assert torch.allclose(weights_of(row, wish), expected, rtol=0, atol=1e-5)


# --- whoever else is in the batch --------------------------------------------------------------------------------


@untimed
@given(st.lists(WISHES, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_a_row_draws_as_it_would_alone(wishes: list[Sampling], source: random.Random) -> None:
    rows = logits(len(wishes))
    seeds = [source.randrange(2**63) for _ in wishes]
    alone = [one_draw(row.unsqueeze(0), wish, seed) for row, wish, seed in zip(rows, wishes, seeds, strict=True)]
    entries = [entry(slot, wish, seed=seed) for slot, (wish, seed) in enumerate(zip(wishes, seeds, strict=True))]
    assert draw(sampler_of(*entries), rows, range(len(wishes))).tokens.tolist() == alone


@untimed
@given(st.lists(WISHES, min_size=1, max_size=6))
def test_more_work_than_needed_changes_nothing(wishes: list[Sampling]) -> None:
    """As where a captured graph does it for all rows."""
    rows, slots = logits(len(wishes)), torch.arange(len(wishes))
    entries = [entry(slot, wish, seed=slot) for slot, wish in enumerate(wishes)]
    needed = draw(sampler_of(*entries), rows, range(len(wishes)))
    sampler = sampler_of(*entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "_rows", lambda *_: None)
        drawn = sampler.draw(rows, slots, last(len(rows)), ~GREEDY)
    assert drawn.tokens.tolist() == needed.tokens.tolist()


def test_a_seed_gives_the_same_text_in_any_company_and_after_a_new_start() -> None:
    """The logits depend on the token before, as a model's do."""
    model = logits(VOCABULARY, seed=3)
    wish = replace(EVERYTHING, temperature=1.3)

    def text(sampler: Sampler, slot: int, others: list[int], first: int, count: int, *, drawn: int = 0) -> list[int]:
        tokens = [first]
        for step in range(count):
            slots = [slot, *others]
            random.Random(step).shuffle(slots)
            before = torch.tensor([tokens[-1] if each == slot else step for each in slots])
            next_ones = draw(sampler, model[before], slots, drawn=drawn + step).tokens
            tokens.append(int(next_ones[slots.index(slot)]))
        return tokens[1:]

    alone = text(sampler_of(entry(0, wish, seed=9, answer=[])), 0, [], 1, 40)
    assert len(set(alone)) > 5
    company = [entry(slot, EACH[name], seed=slot) for slot, name in enumerate(EACH) if slot != 5]
    sampler = sampler_of(*company, entry(5, wish, seed=9, answer=[]))
    others = [each.slot for each in company]
    assert text(sampler, 5, others, 1, 15) == alone[:15]
    sampler.release([5])
    sampler.admit([entry(5, Sampling(temperature=2.0, logit_bias=((3, 50.0),)), seed=1)])
    text(sampler, 5, others, 1, 3)
    sampler.release([5])
    sampler.admit([entry(5, wish, seed=9, answer=alone[:15])])
    assert text(sampler, 5, others[:4], alone[14], 25, drawn=15) == alone[15:]


def test_a_slot_remembers_nothing_of_who_had_it_before() -> None:
    row = logits(1)
    strange = Sampling(logit_bias=((3, 100.0),), repetition_penalty=9.0)
    sampler = sampler_of(entry(0, strange), entry(1, strange))
    rows = row.expand(2, -1)
    assert draw(sampler, rows, [0, 1]).tokens.tolist() == [3, 3]
    sampler.release([0])
    assert sampler.features([0]) == GREEDY
    sampler.admit([entry(0, Sampling())])
    assert draw(sampler, rows, [0, 1]).tokens.tolist() == [int(row.argmax()), 3]


def test_extreme_temperatures_leave_each_other_alone() -> None:
    rows = logits(1).expand(4, -1) * 1000
    wishes = [Sampling(temperature=heat, seed=1) for heat in (0.01, 2.0, 0.0, 1e-7)]
    sampler = sampler_of(*(entry(slot, wish) for slot, wish in enumerate(wishes)))
    drawn = draw(sampler, rows, range(4))
    assert drawn.healthy.tolist() == [True] * 4
    assert drawn.tokens.tolist() == [int(rows[0].argmax())] * 4


def test_a_row_that_is_no_number_is_alone_with_it() -> None:
    names = [*EACH] * 2
    rows = logits(len(names))
    entries = [entry(slot, replace(EACH[name], logprobs=True)) for slot, name in enumerate(names)]
    whole = draw(sampler_of(*entries), rows, range(len(names)))
    broken = rows.clone()
    for row, value in zip(range(0, len(names), 2), [math.nan, math.inf, -math.inf] * 9, strict=False):
        broken[row, :: 1 if value < 0 else 7] = value
    drawn = draw(sampler_of(*entries), broken, range(len(names)))
    assert drawn.healthy.tolist() == [row % 2 == 1 for row in range(len(names))]
    assert not drawn.tokens[::2].any()
    assert drawn.tokens[1::2].tolist() == whole.tokens[1::2].tolist()
    assert whole.logprobs is not None
    assert drawn.logprobs is not None
    assert drawn.logprobs[1::2].tolist() == whole.logprobs[1::2].tolist()


# --- what is counted from draw to draw ---------------------------------------------------------------------------


@untimed
@given(WISHES.map(lambda wish: replace(wish, temperature=0.0)), st.integers(0, 50))
def test_greedy_answers_grow_as_the_reference_has_it(wish: Sampling, seed: int) -> None:
    sampler = sampler_of(entry(0, wish), entry(1, EVERYTHING))
    answer = list(ANSWER)
    for step in range(4):
        rows = logits(2, seed=100 * seed + step)
        expected = chances(rows[0], wish, PROMPT, answer).index(1.0)
        answer.append(int(draw(sampler, rows, [0, 1], drawn=len(answer)).tokens[0]))
        assert answer[-1] == expected


def test_nothing_ends_an_answer_before_its_time() -> None:
    row = torch.zeros(1, VOCABULARY)
    row[0, [2, 30, 17]] = torch.tensor([9.0, 8.0, 7.0])
    wish = Sampling(min_tokens=3, stop_token_ids=frozenset([17, 10**8]))
    sampler = sampler_of(entry(0, wish, answer=[]))
    assert [int(draw(sampler, row, [0], drawn=drawn).tokens) for drawn in range(5)] == [0, 0, 0, 2, 2]
    free = sampler_of(entry(0, replace(wish, ignore_eos=True), answer=[]))
    assert [int(draw(free, row, [0], drawn=drawn).tokens) for drawn in range(2)] == [2, 2]


def test_rows_that_fill_up_a_batch_wish_nothing() -> None:
    rows = logits(4)
    sampler = sampler_of(entry(0, EVERYTHING))
    alone = int(draw(sampler_of(entry(0, EVERYTHING)), rows[:1], [0]).tokens)
    drawn = sampler.draw(rows, torch.tensor([0, 1, 1, 1]), last(4), sampler.features([0]))
    assert drawn.tokens.tolist() == [alone, *rows[1:].argmax(-1).tolist()]


def test_only_needed_work_is_named() -> None:
    sampler = sampler_of(*(entry(slot, wish) for slot, wish in enumerate(EACH.values())), entry(20, Sampling()))
    names = dict(zip(EACH, range(len(EACH)), strict=True))
    assert sampler.features([20]) == sampler.features([]) == GREEDY
    assert sampler.features([names["hot"], 20]) == Features.SAMPLED
    assert sampler.features([names["top_k"]]) == Features.SAMPLED | Features.LIMITED
    assert sampler.features([names["greedy"]]) == Features.PENALISED
    assert sampler.features([names["hot"], names["bias"]]) == Features.SAMPLED | Features.NUDGED


def test_half_precision_is_drawn_in_full() -> None:
    rows = logits(4).bfloat16()
    entries = [entry(slot, EVERYTHING, seed=slot) for slot in range(4)]
    halves = draw(sampler_of(*entries), rows, range(4)).tokens.tolist()
    assert halves == draw(sampler_of(*entries), rows.float(), range(4)).tokens.tolist()


# --- logprobs ----------------------------------------------------------------------------------------------------


def test_logprobs_are_the_models_own() -> None:
    rows = logits(3, vocabulary=3000)
    wishes = [
        replace(EVERYTHING, logprobs=True),
        Sampling(temperature=1.0),
        Sampling(temperature=2.0, logprobs=True, top_logprobs=20),
    ]
    drawn = draw(sampler_of(*(entry(*each) for each in enumerate(wishes)), vocabulary=3000), rows, range(3))
    exact = rows.double().log_softmax(-1)
    assert drawn.logprobs is not None
    assert drawn.top is not None
    for row in (0, 2):
        assert float(drawn.logprobs[row]) == pytest.approx(float(exact[row, drawn.tokens[row]]), abs=1e-5)
    best = exact[2].topk(20)
    assert drawn.top[0][2].tolist() == best.indices.tolist()
    assert drawn.top[1][2].tolist() == pytest.approx(best.values.tolist(), abs=1e-5)


def test_chances_are_told_to_those_who_ask() -> None:
    sampler = sampler_of(entry(0, Sampling()), entry(1, Sampling(logprobs=True)))
    assert draw(sampler, logits(1), [0]).logprobs is None
    drawn = draw(sampler, logits(2), [0, 1])
    assert drawn.logprobs is not None
    assert drawn.top is None


# --- the parts ---------------------------------------------------------------------------------------------------


@untimed
@given(st.data())
def test_a_cutoff_is_found_alike_by_sorting_and_by_bisection(data: st.DataObject) -> None:
    width = data.draw(st.sampled_from([8, 50, 5 * FEW]))
    weight = st.sampled_from([0.0, 1e-30, 1e-9, 0.1, 0.5, 1.0]) | st.floats(0, 1, width=32)
    rows = data.draw(st.lists(st.lists(weight, min_size=8, max_size=8), min_size=1, max_size=4))
    # Long rows are made of few numbers: the search is for places, and ties are what is hard.
    scale = torch.linspace(1, 0.5, width // 8).repeat(8)[:width] if width > 50 else torch.ones(width)
    weights = torch.tensor(rows, dtype=torch.float32).repeat(1, -(-width // 8))[:, :width] * scale
    weights[:, 3] = 1.0
    shares = st.sampled_from([1.0, 0.5, 1e-9]) | st.floats(0.001, 1)
    limits = Limits(
        torch.tensor([data.draw(st.integers(0, width + 2)) for _ in rows]),
        torch.tensor([data.draw(shares) for _ in rows], dtype=torch.float64),
        torch.tensor([data.draw(st.sampled_from([0.0, 0.2, 1.0])) for _ in rows], dtype=torch.float64),
    )

    def may_be_drawn(cutoff: torch.Tensor) -> list[list[int]]:
        """Weights that are too light to have any mass are neither in nor out."""
        return masses(weights.masked_fill(weights < cutoff.unsqueeze(-1), 0)).tolist()

    assert may_be_drawn(by_sorting(weights, limits)) == may_be_drawn(by_bisection(weights, limits))


@untimed
@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.floats(0, 1, exclude_max=True), st.integers(1, 3))
def test_a_pick_is_where_the_sum_passes_the_number(heights: list[int], uniform: float, blocks: int) -> None:
    heights = [3, *heights]
    places = [index * (blocks * BLOCK - 1) // len(heights) for index in range(len(heights))]
    weights = torch.zeros(1, blocks * BLOCK)
    weights[0, places] = torch.tensor(heights) / 3
    sums = masses(weights)[0].cumsum(-1)
    target = int(uniform * float(sums[-1]))
    assert int(pick(weights, torch.tensor([uniform], dtype=torch.float64))) == int((sums <= target).sum())


def test_numbers_are_those_of_splitmix64() -> None:
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    found = uniforms(torch.full((5,), 1234567), torch.arange(5))
    assert found.tolist() == [(number >> 11) * 2.0**-53 for number in known]


def test_each_seed_and_choice_has_numbers_of_its_own() -> None:
    streams = {stream_of(seed, choice) for seed in (*range(100), 2**63 - 1) for choice in range(16)}
    assert len(streams) == 101 * 16
    assert all(-(2**63) <= stream < 2**63 for stream in streams)
    first = uniforms(torch.tensor(sorted(streams)), torch.zeros(len(streams), dtype=torch.int64))
    assert 0 <= float(first.min()) <= float(first.max()) < 1
    assert float(first.mean()) == pytest.approx(0.5, abs=4 * (12 * len(streams)) ** -0.5)


# --- what a request says -----------------------------------------------------------------------------------------


def test_params_have_defaults_and_stop_may_be_one_string() -> None:
    assert sampling_of({}) == Sampling(max_tokens=256, temperature=0.0, top_p=1.0, top_k=0, seed=None, stop=())
    assert sampling_of({"stop": "x", "seed": 3, "unknown": 1}) == Sampling(seed=3, stop=("x",))
    assert sampling_of({"stop": ["x", "y"]}).stop == ("x", "y")
    assert sampling_of({"logit_bias": {"7": 1, "8": -2.5}}).logit_bias == ((7, 1.0), (8, -2.5))
    assert sampling_of({"stop_token_ids": [3, 3, 1]}).stop_token_ids == frozenset([1, 3])
    assert sampling_of({"top_logprobs": 2}).logprobs


def test_the_largest_token_that_is_named() -> None:
    assert largest_token(Sampling()) == -1
    assert largest_token(Sampling(logit_bias=((7, 1.0), (3, 1.0)), stop_token_ids=frozenset([5]))) == 7
