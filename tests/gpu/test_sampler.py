"""Drawing on CUDA: the tokens are those of a CPU, also out of a captured graph, and nothing waits for the device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support.sampling import ANSWER, chances, entry, last, logits, sampler_of, surprise
from worker.engines.causal.cutoff import Limits, by_bisection, by_sorting, cutoff_for
from worker.engines.causal.sampler import GREEDY, Drawn, Features, Sampler
from worker.engines.causal.sampling import Sampling

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

LARGE = 151_936
CUDA = torch.device("cuda")
WISHES = [
    Sampling(logprobs=True, top_logprobs=5),
    Sampling(temperature=1.0),
    Sampling(temperature=0.01, top_p=0.5),
    Sampling(temperature=2.0, top_k=40, logprobs=True),
    Sampling(temperature=1.0, top_p=0.95),
    Sampling(temperature=1.5, min_p=0.05, top_k=1),
    Sampling(temperature=0.7, top_k=500, top_p=0.9, repetition_penalty=1.3),
    Sampling(presence_penalty=1.0, frequency_penalty=0.5),
    Sampling(temperature=1.0, logit_bias=((3, 9.0), (LARGE - 1, 12.0)), min_tokens=9),
]


def both(vocabulary: int, wishes: list[Sampling]) -> tuple[Sampler, Sampler]:
    entries = [entry(slot, wish, seed=slot) for slot, wish in enumerate(wishes)]
    return sampler_of(*entries, vocabulary=vocabulary), sampler_of(*entries, vocabulary=vocabulary, device="cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [50, 49_152, LARGE])
def test_tokens_are_those_of_the_cpu(vocabulary: int, dtype: torch.dtype) -> None:
    wishes = [replace(wish, logit_bias=()) for wish in WISHES] if vocabulary < LARGE else WISHES
    host, device = both(vocabulary, wishes)
    slots = torch.arange(len(wishes))
    features = host.features(range(len(wishes)))
    for step in range(8):
        rows = logits(len(wishes), vocabulary=vocabulary, seed=step).to(dtype)
        rows[step % len(wishes), step] = torch.nan
        places = last(len(wishes), len(ANSWER) + step)
        expected = host.draw(rows, slots, places, features)
        found = device.draw(rows.cuda(), slots.cuda(), places.cuda(), features)
        assert found.healthy.tolist() == expected.healthy.tolist()
        assert found.tokens.tolist() == expected.tokens.tolist()
        compare_chances(found, expected, [0, 3], step % len(wishes))


def compare_chances(found: Drawn, expected: Drawn, rows: list[int], broken: int) -> None:
    assert found.logprobs is not None
    assert expected.logprobs is not None
    asking = [row for row in rows if row != broken]
    assert torch.allclose(found.logprobs[asking].cpu(), expected.logprobs[asking], rtol=0, atol=1e-4)
    assert found.top is not None
    assert expected.top is not None
    if 0 in asking:
        assert torch.allclose(found.top[1][0].cpu(), expected.top[1][0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("features", [GREEDY, ~GREEDY])
def test_a_captured_graph_draws_the_same(features: Features) -> None:
    wishes = WISHES if features else [Sampling()] * 3
    host, device = both(LARGE, wishes)
    rows, slots = torch.zeros(len(wishes), LARGE, device=CUDA), torch.arange(len(wishes), device=CUDA)
    places = last(len(wishes)).cuda()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        device.draw(rows, slots, places, features)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = device.draw(rows, slots, places, features)
    # What was tried counts, so that all begin anew.
    device.admit([entry(slot, wish, seed=slot) for slot, wish in enumerate(wishes)])
    for step in range(5):
        fresh = logits(len(wishes), vocabulary=LARGE, seed=step)
        rows.copy_(fresh)
        places.copy_(last(len(wishes), len(ANSWER) + step))
        graph.replay()
        expected = host.draw(fresh, slots.cpu(), places.cpu(), host.features(range(len(wishes))))
        assert drawn.tokens.tolist() == expected.tokens.tolist()
        assert bool(drawn.healthy.all())


def test_nothing_waits_for_the_device() -> None:
    _, device = both(LARGE, WISHES)
    rows, slots = logits(len(WISHES), vocabulary=LARGE).cuda(), torch.arange(len(WISHES), device=CUDA)
    places = last(len(WISHES)).cuda()
    device.draw(rows, slots, places, ~GREEDY)
    torch.cuda.set_sync_debug_mode("error")
    try:
        device.admit([entry(slot, wish, seed=slot) for slot, wish in enumerate(WISHES)])
        device.draw(rows, slots, places, ~GREEDY)
        device.draw(rows, slots, places, GREEDY)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_draws_are_spread_by_the_exact_chances() -> None:
    wish = Sampling(temperature=1.5, top_k=30, top_p=0.9, min_p=0.01, repetition_penalty=1.3)
    row, count = logits(1, seed=5), 3000
    sampler = sampler_of(*(entry(slot, wish, seed=slot) for slot in range(count)), device="cuda")
    slots = torch.arange(count, device=CUDA)
    drawn = sampler.draw(row.expand(count, -1).cuda(), slots, last(count).cuda(), sampler.features(range(count)))
    assert abs(surprise(drawn.tokens.tolist(), chances(row[0], wish))) < 3.5


@pytest.mark.parametrize("heat", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("width", [1024, 49_152, 152_576])
def test_the_kernel_finds_the_same_tokens(width: int, heat: float) -> None:
    source = torch.Generator().manual_seed(width)
    scores = (torch.randn(64, width, generator=source) * 3 / heat).bfloat16().float()
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    counts = torch.randint(0, 200, (64,), generator=source)
    counts[::7] = width + 1
    shares = torch.rand(64, generator=source).double()
    shares[::5] = 1.0
    limits = Limits(counts, shares, torch.rand(64, generator=source).double() * (torch.arange(64) % 3 == 0))
    expected = weights >= by_sorting(weights, limits).unsqueeze(-1)
    on_device = Limits(limits.top_k.cuda(), limits.top_p.cuda(), limits.min_p.cuda())
    for find in (by_bisection, cutoff_for(CUDA)):
        found = find(weights.cuda(), on_device)
        assert torch.equal(weights >= found.cpu().unsqueeze(-1), expected)
