from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from worker.engines.causal.drawing import HEAD, Draw, draw
from worker.engines.causal.sampling import Sampling, sampling_of

VOCABULARY = 50
untimed = settings(deadline=None)
WISHES = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-9, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 5, VOCABULARY, 10_000]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.3]),
)


def logits(rows: int, *, vocabulary: int = VOCABULARY, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def warped(row: torch.Tensor, wish: Sampling, seen: list[int]) -> torch.Tensor:
    """The chances that transformers' own processors give, in its own order."""
    steps = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(wish.repetition_penalty)])
    steps.append(TemperatureLogitsWarper(wish.temperature))
    if wish.top_k:
        steps.append(TopKLogitsWarper(wish.top_k))
    steps.append(TopPLogitsWarper(wish.top_p))
    chances: torch.Tensor = steps(torch.LongTensor([seen]), row.unsqueeze(0).clone()).softmax(-1)[0]
    return chances


@untimed
@given(WISHES, st.integers(0, 20))
def test_draws_are_spread_as_transformers_spreads_them(wish: Sampling, seed: int) -> None:
    row, seen = logits(1, seed=seed), [1, 4, 4, 9]
    count = 400
    uniforms = [(index + 0.5) / count for index in range(count)]
    tokens = draw(row.expand(count, -1).clone(), [Draw(wish, uniform, seen) for uniform in uniforms])
    if wish.temperature < 0.1:
        greedy = RepetitionPenaltyLogitsProcessor(wish.repetition_penalty)(torch.tensor([seen]), row.clone()).argmax()
        assert set(tokens) == {int(greedy)}
        return
    chances = warped(row[0], wish, seen)
    for token in range(VOCABULARY):
        assert tokens.count(token) / count == pytest.approx(float(chances[token]), abs=1.5 / count)


@untimed
@given(st.lists(WISHES, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_a_row_draws_as_it_would_alone(wishes: list[Sampling], source: random.Random) -> None:
    rows = logits(len(wishes))
    draws = [Draw(wish, source.random(), [source.randrange(VOCABULARY)]) for wish in wishes]
    alone = [draw(rows[index : index + 1].clone(), [row])[0] for index, row in enumerate(draws)]
    assert draw(rows.clone(), draws) == alone


@pytest.mark.parametrize("uniform", [0.0, 5e-324, 1 - 2**-53])
def test_a_draw_at_the_very_edge_takes_no_token_that_is_next_to_impossible(uniform: float) -> None:
    row = torch.full((1, VOCABULARY), -60.0)
    row[0, 20:30] = 5.0
    company = [Draw(Sampling(temperature=1.0), uniform, [0]), Draw(Sampling(temperature=0.3), 0.5, [0])]
    alone = draw(row.clone(), company[:1])
    assert alone[0] in {20, 29}
    assert draw(row.expand(2, -1).clone(), company)[:1] == alone


def test_a_nucleus_larger_than_the_head_is_still_exact() -> None:
    flat = logits(1, vocabulary=4 * HEAD) / 100
    wish = Sampling(temperature=1.0, top_p=0.75)
    tokens = draw(flat.expand(64, -1).clone(), [Draw(wish, (i + 0.5) / 64, []) for i in range(64)])
    chances = warped(flat[0], wish, [0])
    assert all(token is not None and chances[token] > 0 for token in tokens)
    assert min(token for token in tokens if token is not None) < HEAD // 8
    assert max(token for token in tokens if token is not None) > 3.8 * HEAD


def test_a_row_that_is_not_a_number_draws_nothing() -> None:
    rows = logits(3)
    rows[0, 7] = torch.nan
    rows[1, :-1] = -torch.inf
    wishes = [Draw(Sampling(temperature=heat), 0.5, []) for heat in (1.0, 1.0, 0.0)]
    nothing, only, likeliest = draw(rows.clone(), wishes)
    assert (nothing, only, likeliest) == (None, VOCABULARY - 1, int(rows[2].argmax()))


def test_half_precision_is_drawn_in_full() -> None:
    rows = logits(4).bfloat16()
    wishes = [Draw(Sampling(temperature=1.0), 0.3, [])] * 4
    assert draw(rows, wishes) == draw(rows.float(), wishes)


def test_params_have_defaults_and_stop_may_be_one_string() -> None:
    assert sampling_of({}) == Sampling(max_tokens=256, temperature=0.0, top_p=1.0, top_k=0, seed=None, stop=())
    assert sampling_of({"stop": "x", "seed": 3, "unknown": 1}) == Sampling(seed=3, stop=("x",))
    assert sampling_of({"stop": ["x", "y"]}).stop == ("x", "y")
