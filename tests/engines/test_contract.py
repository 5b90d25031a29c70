"""What every engine promises, of each of them: see `worker.engines.base`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ktqueue.job import Task
from ktqueue.models import ModelSpec
from tests.support.engines import Run, causal_engine, embed, generate, loaded
from tests.support.upstreams import Manner, Upstream
from worker.engines.base import Delta, Engine, Finished, Progress, Relay, Request

ROWS = 3


@dataclass(frozen=True, slots=True)
class Kind:
    """An engine with room for ``ROWS``, and requests for it by their size; size 0 can never run."""

    make: Callable[[], Engine]
    ask: Callable[[str, int], Request]


def ask_echo(job_id: str, size: int) -> Request:
    return Request(job_id, Task.ECHO, {"size": size}, {"delay_ms": size} if size else {"fail": "permanent"})


def ask_embed(job_id: str, size: int) -> Request:
    return embed(job_id, *["x" * (3 * size + index) for index in range(size)] if size else ["x" * 500])


def ask_generate(job_id: str, size: int) -> Request:
    return generate(job_id, "x" * size, max_tokens=1 + size % 5)


def ask_elsewhere(job_id: str, size: int) -> Request:
    return generate(job_id, "x" * max(1, size), **({} if size else {"top_k": 5}))


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Engine]:
    """An engine whose requests are answered by another server, not so fast that they would not meet there."""
    with Upstream(lambda _: Manner(first_s=0.03, each_s=0.001)).serving() as upstream:
        instances = ({"url": upstream.url, "concurrency": ROWS},)
        spec = ModelSpec.model_validate({"alias": "e", "engine": "openai", "instances": instances})
        engine = loaded(spec)
        yield engine
        assert isinstance(engine, Relay)
        engine.close()


@pytest.fixture(scope="module", params=["echo", "encoder", "causal", "openai"])
def kind(
    request: pytest.FixtureRequest,
    encoder_folder: Path,
    llama: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    elsewhere: Engine,
) -> Kind:
    if request.param == "openai":
        return Kind(lambda: elsewhere, ask_elsewhere)
    if request.param == "echo":
        return Kind(lambda: loaded(ModelSpec(alias="e", engine="echo", max_batch=ROWS)), ask_echo)
    if request.param == "encoder":
        spec = ModelSpec(
            alias="e", engine="encoder", source=f"path:{encoder_folder}", max_batch=ROWS, tokens_per_step=40
        )
        engine = loaded(spec)
        return Kind(lambda: engine, ask_embed)
    return Kind(lambda: causal_engine(llama, tokenizer, max_batch=ROWS, budget=16), ask_generate)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("step"), st.just(0)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(operations=OPERATIONS)
def test_every_request_ends_exactly_once_unless_it_is_cancelled(kind: Kind, operations: list[tuple[str, int]]) -> None:
    run = Run(kind.make())
    asked: dict[str, int] = {}
    cancelled: set[str] = set()
    for operation, argument in operations:
        if operation == "submit" and run.engine.capacity() > 0:
            asked[f"r{len(asked)}"] = argument
            run.submit(kind.ask(f"r{len(asked) - 1}", argument))
        elif operation == "cancel":
            cancelled |= {f"r{argument}"} & run.inside
            run.cancel(f"r{argument}")
        elif operation == "step":
            run.step()
        assert 0 <= run.engine.capacity() <= ROWS
    run.end()
    assert run.engine.capacity() == ROWS
    assert run.finished.keys() | run.errors.keys() | cancelled == asked.keys()
    assert run.errors.keys() <= {job_id for job_id, size in asked.items() if size == 0}
    assert all(1 <= finished.largest_batch <= ROWS for finished in run.finished.values())


def test_an_idle_engine_has_nothing_to_say(kind: Kind) -> None:
    engine = kind.make()
    assert (engine.step(), engine.capacity()) == ([], ROWS)
    engine.cancel("unknown")


def test_an_engine_holds_as_much_whatever_is_in_it(kind: Kind) -> None:
    engine = kind.make()
    empty = engine.room()
    engine.submit(kind.ask("a", 8))
    assert engine.room() == empty
    assert empty.jobs == ROWS


def test_a_cancelled_request_leaves_its_place_at_once_and_the_id_may_come_again(kind: Kind) -> None:
    run = Run(kind.make(), kind.ask("a", 8))
    run.cancel("a")
    assert run.engine.capacity() == ROWS
    run.submit(kind.ask("a", 3))
    run.end()
    assert set(run.finished) == {"a"}


def test_requests_share_steps(kind: Kind) -> None:
    run = Run(kind.make(), *[kind.ask(f"r{index}", 1) for index in range(ROWS)]).end()
    assert {finished.largest_batch for finished in run.finished.values()} == {ROWS}


def test_progress_grows_and_is_told_before_the_end(kind: Kind) -> None:
    run = Run(kind.make(), kind.ask("a", 9))
    seen: list[Any] = []
    while run.inside:
        seen += run.step()
    progress = [
        o.progress if isinstance(o, Delta) else o.done / o.total for o in seen if isinstance(o, Delta | Progress)
    ]
    assert progress == sorted(progress)
    assert isinstance(seen[-1], Finished)
