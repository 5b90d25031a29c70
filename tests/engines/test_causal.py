"""The causal engine on tiny models: its tokens are those of `generate`, whoever joins or leaves meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ktqueue.job import Task, Usage
from tests.support.engines import Run, assert_chances_of, causal_engine, generate, greedy
from tests.support.tiny_models import byte_tokenizer, tiny_llama
from worker.engines.base import Cut, Failed, Request
from worker.engines.causal.chances import Chances
from worker.engines.causal.executor import Executor
from worker.engines.causal.flight import Flight, Landed
from worker.engines.causal.sampler import Entry
from worker.engines.causal.scheduler import Plan

WORDS = "a brown fox and the lazy dog went over hills to see what is there for tea"


def requests(count: int, *, most: int = 30) -> list[Request]:
    source = random.Random(count)
    return [generate(f"r{i}", WORDS[: source.randint(1, 30)], max_tokens=source.randint(1, most)) for i in range(count)]


def reference(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, request: Request) -> list[int]:
    """What transformers generates for this prompt alone, greedily."""
    return greedy(model, tokenizer(request.input["prompt"]).input_ids, request.params["max_tokens"])


def tokens(run: Run, job_id: str) -> list[int]:
    return list(run.result(job_id)["tokens"])


def test_tokens_are_those_of_generate_with_staggered_joins(
    causal: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    run = Run(causal_engine(causal, tokenizer, max_batch=5))
    asked = requests(14)
    for number, request in enumerate(asked):
        while run.engine.capacity() == 0:
            run.step()
        run.submit(request)
        if number % 3:
            run.step()
    run.end()
    for request in asked:
        assert tokens(run, request.id) == reference(causal, tokenizer, request)
        assert run.texts[request.id] == run.result(request.id)["text"]
    assert max(finished.largest_batch for finished in run.finished.values()) == 5


def test_a_long_prompt_is_read_piece_by_piece_while_others_go_on(
    causal: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    short, long = generate("short", "tea", max_tokens=20), generate("long", WORDS[:40], max_tokens=10)
    engine = causal_engine(causal, tokenizer, budget=7)
    run = Run(engine, short)
    run.step()
    run.submit(long)
    quick, slow = engine._members["short"][0], engine._members["long"][0]
    steps = 0
    while len(slow.tokens) == 40:
        before = len(quick.tokens)
        run.step()
        steps += 1
        assert len(quick.tokens) == before + 1
    assert steps == 7
    run.end()
    for request in (short, long):
        assert tokens(run, request.id) == reference(causal, tokenizer, request)


def test_a_longer_prompt_than_all_before_it_moves_the_others(
    causal: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    asked = [generate("a", "t", max_tokens=20), generate("b", WORDS[:40], max_tokens=20)]
    run = Run(causal_engine(causal, tokenizer), asked[0])
    run.step()
    run.submit(asked[1])
    run.end()
    for request in asked:
        assert tokens(run, request.id) == reference(causal, tokenizer, request)


def test_an_end_token_ends_the_answer(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = causal_engine(llama, tokenizer)
    free = Run(engine, generate("a", "tea", max_tokens=20)).end()
    end = tokens(free, "a")[4]
    ending = Run(causal_engine(_ending_with(llama, [end, 1]), tokenizer), generate("a", "tea", max_tokens=20)).end()
    expected = tokens(free, "a")[: tokens(free, "a").index(end) + 1]
    assert ending.result("a") == {
        "text": tokenizer.decode(expected[:-1]),
        "finish_reason": "stop",
        "tokens": expected,
    }
    assert ending.finished["a"].usage == Usage(prompt_tokens=3, completion_tokens=len(expected))
    assert free.result("a")["finish_reason"] == "length"
    assert free.finished["a"].usage == Usage(prompt_tokens=3, completion_tokens=20)


def test_a_seed_gives_the_same_text_whoever_else_is_there(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    def wish(job_id: str, seed: int) -> Request:
        return generate(
            job_id, "tea", max_tokens=25, temperature=0.9, top_p=0.9, top_k=40, seed=seed, repetition_penalty=1.1
        )

    engine = causal_engine(llama, tokenizer)
    alone = tokens(Run(engine, wish("a", 7)).end(), "a")
    crowd = Run(engine, generate("x", WORDS[:30], max_tokens=9, temperature=2.0), generate("y", "fox", max_tokens=30))
    crowd.step()
    crowd.submit(wish("a", 7), wish("b", 8))
    crowd.end()
    assert tokens(crowd, "a") == alone
    assert tokens(crowd, "b") != alone


def test_drafts_change_no_token_whatever_is_asked_for(
    causal: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Texts that go round, so that drafts come true; some with penalties, which have none."""
    wishes: list[dict[str, Any]] = [
        {},
        {"temperature": 0.7, "seed": 3, "n": 3},
        {"temperature": 1.4, "top_k": 5, "seed": 4, "min_tokens": 30},
        {"logit_bias": {"5": 40.0}},
        {"repetition_penalty": 1.3, "temperature": 0.8, "seed": 5},
        {"frequency_penalty": 0.5},
        {"logprobs": True, "top_logprobs": 2},
    ]
    asked = [generate(f"r{i}", "a fox a fox a fox " * 2, max_tokens=25, **wish) for i, wish in enumerate(wishes)]
    plain = Run(causal_engine(causal, tokenizer, max_batch=12), *asked).end()
    engine = causal_engine(causal, tokenizer, max_batch=12, drafts=6)
    drafted = Run(engine, *asked).end()
    for request in asked:
        ours, theirs = drafted.result(request.id), plain.result(request.id)
        for part in (ours, theirs):
            part.pop("logprobs", None)
        assert ours == theirs
        assert drafted.finished[request.id].usage == plain.finished[request.id].usage
    vitals = engine.vitals()
    assert 0 < vitals.accepted_tokens <= vitals.draft_tokens
    assert drafted.texts == plain.texts


def test_cancelled_members_free_their_rows_and_the_others_do_not_notice(
    causal: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    asked = [generate(f"r{i}", WORDS[: 3 + 4 * i], max_tokens=20) for i in range(4)]
    run = Run(causal_engine(causal, tokenizer), *asked)
    assert run.engine.capacity() == 0
    run.step()
    for job_id in ("r0", "r2", "unknown"):
        run.cancel(job_id)
        assert run.engine.capacity() == 4 - len(run.inside)
    run.end()
    for request in (asked[1], asked[3]):
        assert tokens(run, request.id) == reference(causal, tokenizer, request)


def test_a_request_that_is_cut_keeps_its_text(causal: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    asked = [generate(f"r{i}", WORDS[: 3 + 4 * i], max_tokens=20, ignore_eos=True) for i in range(3)]
    run = Run(causal_engine(causal, tokenizer), *asked)
    for _ in range(5):
        run.step()
    cut = run.cut("r1")
    run.end()
    expected = reference(causal, tokenizer, asked[1])
    assert cut.result is not None
    known = cut.result["tokens"]
    assert 0 < len(known) < 20
    assert known[: len(expected)] == expected[: len(known)]
    assert cut.result["finish_reason"] == "deadline"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == len(known)
    assert sorted(run.finished) == ["r0", "r2"]
    assert run.engine.cut("unknown").result is None


def test_a_prompt_can_be_cancelled_while_it_is_read(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    run = Run(causal_engine(llama, tokenizer, budget=10), generate("long", WORDS[:40]))
    run.step()
    run.cancel("long")
    assert run.engine.capacity() == 4
    run.submit(generate("next", "tea", max_tokens=2))
    run.end()
    assert sorted(run.finished) == ["next"]


def test_what_can_never_run_fails_in_the_next_step(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    run = Run(
        causal_engine(llama, tokenizer, context=16),
        generate("long", "a" * 16),
        generate("empty", ""),
        Request("chat", Task.GENERATE, {"messages": [{"role": "user", "content": "tea"}]}, {}),
    )
    assert run.engine.capacity() == 4
    run.step()
    assert {job_id: error.code for job_id, error in run.errors.items()} == {
        "long": "context_length_exceeded",
        "empty": "invalid_request",
        "chat": "invalid_request",
    }
    assert run.errors["long"].message == "the prompt has 16 tokens; the model takes at most 15"


def test_what_the_cache_could_never_hold_is_refused_with_the_numbers(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    run = Run(causal_engine(llama, tokenizer, tokens=16), generate("large", "a" * 16), generate("fits", "a" * 15)).end()
    assert run.errors["large"].message == "the prompt has 16 tokens; the model takes at most 15"
    assert len(run.finished["fits"].result["tokens"]) == 1


def test_a_token_that_only_the_tokenizer_knows_is_refused(llama: PreTrainedModel) -> None:
    knows_more = byte_tokenizer()
    knows_more.add_special_tokens({"additional_special_tokens": ["<image>"]})
    run = Run(causal_engine(llama, knows_more), generate("a", "an <image>")).end()
    assert run.errors["a"].code == "invalid_request"
    assert run.errors["a"].message == "the prompt: token 260 is not one of the model's 260"


def test_more_chances_than_are_held_for_one_request_are_refused_by_what_the_context_leaves(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    asked = {"n": 2, "max_tokens": 32_768, "top_logprobs": 20}
    run = Run(causal_engine(llama, tokenizer, context=20_000, tokens=20_000), generate("a", "tea", **asked)).end()
    assert run.errors["a"].code == "invalid_request"
    assert run.errors["a"].message.startswith(
        "params: n * max_tokens * (1 + top_logprobs) must be at most 688128; 2 * 19"
    )
    run = Run(causal_engine(llama, tokenizer, context=16), generate("a", "a" * 10, **asked)).end()
    assert [len(choice["logprobs"]) for choice in run.result("a")["choices"]] == [6, 6]


@dataclass(frozen=True, slots=True)
class Watched(Landed):
    """Notes how many of the likeliest it was asked for."""

    asked: list[int] = field(default_factory=list)

    def chances(self, index: int, most: int) -> Chances | None:
        self.asked.append(most)
        return Landed.chances(self, index, most)


class Watching:
    """An executor whose steps are watched."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.release = executor.release
        self.asked: list[int] = []

    def launch(self, plan: Plan, entries: Sequence[Entry]) -> Flight:
        self._flight = self._executor.launch(plan, entries)
        return self

    def land(self) -> Landed:
        landed = self._flight.land()
        return Watched(landed.tokens, landed.logprobs, landed.top_tokens, landed.top_logprobs, self.asked)


def test_chances_are_made_only_for_those_who_ask(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = causal_engine(llama, tokenizer)
    engine._executor = watching = Watching(engine._executor)
    wish = {"max_tokens": 4, "ignore_eos": True}
    run = Run(engine, generate("a", "tea", top_logprobs=2, **wish), generate("b", "sea", **wish)).end()
    assert len(run.result("a")["logprobs"][3]["top"]) == 2
    assert watching.asked == [2] * 4


def test_an_answer_ends_where_the_context_does(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    run = Run(causal_engine(llama, tokenizer, context=16), generate("a", "a" * 10, max_tokens=500)).end()
    assert len(tokens(run, "a")) == 6
    assert run.result("a")["finish_reason"] == "length"


def test_no_more_than_max_batch_are_members_and_all_that_were_submitted_are_served(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    run = Run(causal_engine(llama, tokenizer, max_batch=3), *requests(8)).end()
    assert len(run.finished) == 8
    assert max(finished.largest_batch for finished in run.finished.values()) == 3


def test_requests_wait_where_memory_is_for_fewer(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    asked = [generate(f"r{i}", WORDS[i : i + 8], max_tokens=24) for i in range(4)]
    run = Run(causal_engine(llama, tokenizer, tokens=40), *asked).end()
    for request in asked:
        assert tokens(run, request.id) == reference(llama, tokenizer, request)


LETTERS = st.text("abc", min_size=1, max_size=30)
ASKED = st.tuples(LETTERS, st.integers(1, 24), st.integers(0, 3), st.sampled_from([None, None, None, 1, 4]))
"""A prompt, how long its answer is, the steps until the next one comes, and after how many steps it is cancelled."""


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    asked=st.lists(ASKED, min_size=1, max_size=9),
    room=st.integers(56, 200),
    budget=st.integers(5, 40),
    block_size=st.sampled_from([2, 4, 16]),
    ahead=st.integers(0, 2),
    drafts=st.sampled_from([0, 1, 5]),
)
def test_tokens_are_those_of_generate_whatever_happens(
    causal: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    asked: list[tuple[str, int, int, int | None]],
    room: int,
    budget: int,
    block_size: int,
    ahead: int,
    drafts: int,
) -> None:
    """Arrivals, shared beginnings, chunks, too little memory, cancellation; launched ahead, drafted, or neither."""
    size = {"tokens": room, "budget": budget, "block_size": block_size}
    run = Run(causal_engine(causal, tokenizer, **size, ahead=ahead, drafts=0 if ahead else drafts))
    requests = [generate(f"r{i}", prompt, max_tokens=most) for i, (prompt, most, _, _) in enumerate(asked)]
    leaving: dict[int, str] = {}
    steps = 0

    def step() -> None:
        nonlocal steps
        run.step()
        steps += 1
        if steps in leaving:
            run.cancel(leaving[steps])

    for request, (_, _, pause, leaves) in zip(requests, asked, strict=True):
        while run.engine.capacity() == 0:
            step()
        run.submit(request)
        if leaves is not None:
            leaving[steps + leaves] = request.id
        for _ in range(pause):
            step()
    while run.inside:
        step()
    assert run.errors == {}
    for request in requests:
        if request.id in run.finished:
            assert tokens(run, request.id) == reference(causal, tokenizer, request)
            assert run.texts.get(request.id, "") == run.result(request.id)["text"]
    assert {request.id for request in requests} - set(leaving.values()) <= set(run.finished)


def test_whatever_is_wrong_with_a_request_its_neighbours_do_not_notice(
    causal: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Too long a prompt, an id that comes twice, temperatures far apart, a cancel, tokens that the model has not."""
    good = [generate(f"good{i}", WORDS[i : i + 9], max_tokens=14) for i in range(3)]
    run = Run(causal_engine(causal, tokenizer, max_batch=12, budget=24), good[0])
    run.submit(generate("long", "x" * 64), generate("foreign", "tea", stop_token_ids=[100_000]))
    run.step()
    for temperature in (0.01, 2.0, 1e-9):
        run.submit(generate(f"t{temperature}", "fox", max_tokens=9, temperature=temperature, seed=1))
    run.submit(good[1], generate("twice", "hills", max_tokens=30), generate("leaves", "to see", max_tokens=30))
    run.step()
    run.texts.pop("twice", None)
    run.told.pop("twice", None)
    run.submit(generate("twice", "lazy", max_tokens=6), good[2])
    run.cancel("leaves")
    run.end()
    assert {job_id: error.code for job_id, error in run.errors.items()} == {
        "long": "context_length_exceeded",
        "foreign": "invalid_request",
    }
    for request in [*good, generate("twice", "lazy", max_tokens=6)]:
        assert run.finished[request.id].result["tokens"] == reference(causal, tokenizer, request)


def test_in_bfloat16_chances_are_nearly_those_of_float32(tokenizer: PreTrainedTokenizerFast) -> None:
    half = tiny_llama().bfloat16()
    run = Run(causal_engine(half, tokenizer))
    run.submit(*[generate(f"r{i}", WORDS[i : i + 12], max_tokens=12, logprobs=True) for i in range(4)])
    run.end()
    assert_chances_of(tiny_llama(), tokenizer, run, {f"r{i}": WORDS[i : i + 12] for i in range(4)}, within=0.2)


def test_choices_are_told_apart_and_share_their_prompt(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    wish = {"max_tokens": 12, "temperature": 1.5, "seed": 5}
    run = Run(causal_engine(llama, tokenizer, max_batch=2))
    run.submit(generate("many", WORDS[:22], n=5, **wish), generate("one", WORDS[:22], **wish))
    run.end()
    choices = run.result("many")["choices"]
    assert choices[0]["tokens"] == tokens(run, "one")
    assert len({tuple(choice["tokens"]) for choice in choices}) == 5
    assert run.finished["many"].usage == Usage(
        prompt_tokens=22, completion_tokens=sum(len(c["tokens"]) for c in choices)
    )


@contextmanager
def poisoned(model: PreTrainedModel, poison: int) -> Iterator[list[int]]:
    """Within it, the model fails whenever the poison is among the tokens it is given; each time is noted."""
    failures: list[int] = []

    def check(_: torch.nn.Module, __: tuple[Any, ...], given: dict[str, Any]) -> None:
        if poison in given["input_ids"]:
            failures.append(poison)
            raise RuntimeError("kernel of doom\n  stack trace")

    handle = model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield failures
    finally:
        handle.remove()


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_prompt_that_can_not_be_read_fails_alone(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, ahead: int
) -> None:
    asked = [generate(job_id, prompt, max_tokens=5) for job_id, prompt in (("a", "tea"), ("bad", "t%a"), ("b", "fox"))]
    with poisoned(llama, tokenizer("%").input_ids[0]):
        run = Run(causal_engine(llama, tokenizer, ahead=ahead), *asked).end()
    assert sorted(run.errors) == ["bad"]
    assert run.errors["bad"].message == "RuntimeError: kernel of doom"
    assert not run.errors["bad"].retryable
    for request in (asked[0], asked[2]):
        assert run.finished[request.id].result["tokens"] == reference(llama, tokenizer, request)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_member_that_breaks_every_batch_fails_alone(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, ahead: int
) -> None:
    asked = requests(9, most=12)
    expected = {request.id: reference(llama, tokenizer, request) for request in asked}
    given = [token for request in asked for token in tokenizer(request.input["prompt"]).input_ids]
    given += [token for answer in expected.values() for token in set(answer[:-1])]
    culprit, poison = next(
        (job_id, token) for job_id, answer in expected.items() for token in answer[3:-1] if given.count(token) == 1
    )
    with poisoned(llama, poison) as failures:
        run = Run(causal_engine(llama, tokenizer, max_batch=9, ahead=ahead), *asked).end()
    assert sorted(run.errors) == [culprit]
    assert len(failures) > 1
    for job_id, finished in run.finished.items():
        assert finished.result["tokens"] == expected[job_id]
        assert run.texts[job_id] == finished.result["text"]
    after = Run(run.engine, *[request for request in asked if request.id != culprit]).end()
    assert max(finished.largest_batch for finished in after.finished.values()) > 1


@pytest.mark.parametrize("seed", [18, 33])
def test_a_step_that_fails_before_it_has_begun_leaves_nobody_with_another_s_blocks(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> None:
    """Copying blocks finds no memory: what that step was to tell of tables is told with the next."""
    source = random.Random(seed)
    asked = [
        generate(f"r{i}", WORDS[source.randint(0, 20) :][: source.randint(1, 30)], max_tokens=source.randint(3, 25))
        for i in range(8)
    ]
    engine = causal_engine(llama, tokenizer, tokens=200)
    executor: Any = engine._executor
    cache = executor._stage._cache
    failing = {source.randint(2, 20) for _ in range(3)}
    copies: list[Any] = []

    class Scarce:
        def __getattr__(self, name: str) -> Any:
            return getattr(cache, name)

        def copy(self, copied: Any) -> None:
            copies.append(copied)
            if len(copies) in failing:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            cache.copy(copied)

    executor._stage._cache = Scarce()
    run = Run(engine, *asked).end()
    assert run.finished
    for request in asked:
        if request.id in run.finished:
            assert run.finished[request.id].result["tokens"] == reference(llama, tokenizer, request)


def test_a_row_that_is_not_a_number_fails_alone(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """The second row's logits are not numbers, while it has a neighbour."""

    def blind(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if output.logits.shape[1] > 1:
            output.logits[:, 1] = torch.nan
        return output

    asked = [generate("a", "tea", max_tokens=9), generate("bad", "fox", max_tokens=9, temperature=1.0)]
    handle = llama.register_forward_hook(blind)
    try:
        run = Run(causal_engine(llama, tokenizer), *asked).end()
    finally:
        handle.remove()
    assert {job_id: error.code for job_id, error in run.errors.items()} == {"bad": "engine_error"}
    assert run.finished["a"].result["tokens"] == reference(llama, tokenizer, asked[0])


UNKNOWN = 200


class Mute(PreTrainedTokenizerFast):
    """Fails on a token, as SentencePiece's do on those that they do not have."""

    unknown: int

    def _decode(self, token_ids: Any, *args: Any, **more: Any) -> str:
        if self.unknown in token_ids:
            raise IndexError("piece id is out of range.")
        return super()._decode(token_ids, *args, **more)


def mute(tokenizer: PreTrainedTokenizerFast, unknown: int = UNKNOWN) -> PreTrainedTokenizerFast:
    make: Callable[..., Any] = Mute
    made = make(tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token)
    made.unknown = unknown
    silent: PreTrainedTokenizerFast = made
    return silent


@pytest.mark.parametrize("drafts", [0, 4])
def test_a_token_without_a_text_fails_its_request_alone(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, drafts: int
) -> None:
    never = {str(UNKNOWN): -100.0}
    good = [generate(name, name, max_tokens=9, logit_bias=never) for name in ("tea", "fox")]
    bad = generate("bad", "dog", max_tokens=9, logit_bias={str(UNKNOWN): 100.0}, n=2)
    run = Run(causal_engine(llama, mute(tokenizer), drafts=drafts), *good, bad)
    failing = run.step() + run.step()
    assert [output.id for output in failing if isinstance(output, Failed)] == ["bad"]
    run.end()
    assert {job_id: error.message for job_id, error in run.errors.items()} == {
        "bad": "IndexError: piece id is out of range."
    }
    alone = Run(causal_engine(llama, tokenizer), *good).end()
    assert {name: each.result for name, each in run.finished.items()} == {
        name: each.result for name, each in alone.finished.items()
    }


def test_an_answer_whose_likeliest_tokens_have_no_text_can_be_cut(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    likeliest = Run(causal_engine(llama, tokenizer), generate("a", "tea", max_tokens=1)).end().result("a")["tokens"][0]
    banned = {str(likeliest): -100.0}
    asked = generate("a", "tea", max_tokens=9, ignore_eos=True, top_logprobs=2, logit_bias=banned)
    run = Run(causal_engine(llama, mute(tokenizer, likeliest)), asked)
    run.step()
    assert run.cut("a") == Cut("a")


def _ending_with(model: PreTrainedModel, tokens: list[int]) -> PreTrainedModel:
    other = tiny_llama()
    other.load_state_dict(model.state_dict())
    other.generation_config.eos_token_id = tokens
    return other
