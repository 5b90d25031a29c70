"""The engine in front of other servers, over real sockets: servers that behave well, and all the ways in which not."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from subprocess import run
from typing import Any

import pytest

from ktqueue.leases.base import Leases
from ktqueue.leases.memory import MemoryLeases
from ktqueue.models import ModelSpec
from tests.support.engines import Run, embed, generate
from tests.support.stack import until
from tests.support.upstreams import WELL, Asked, Manner, Upstream, answer_to, vector_of
from worker.engines.base import Request
from worker.engines.upstream.engine import UpstreamEngine
from worker.engines.upstream.loading import load_upstream

QUICK = {"connect_seconds": 2.0, "first_token_seconds": 0.3, "total_seconds": 5.0, "rest_seconds": 0.2}


@contextmanager
def serving(
    *servers: Upstream, leases: Leases | None = None, each: Sequence[dict[str, Any]] = (), **given: Any
) -> Iterator[UpstreamEngine]:
    """An engine in front of ``servers``, each taking as many as it says."""
    more = each or [{}] * len(servers)
    specs = [{"url": server.url, "concurrency": server.most, **add} for server, add in zip(servers, more, strict=True)]
    table = {"alias": "m", "engine": "openai", "instances": tuple(specs), **QUICK, **given}
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server.serving())
        engine = load_upstream(ModelSpec.model_validate(table), leases or MemoryLeases(), {"KEY": "s3cret"})
        stack.callback(engine.close)
        yield engine


def first(manner: Manner, times: int = 1) -> Callable[[Asked], Manner]:
    """The first requests are answered in this manner, all others well."""
    return lambda asked: manner if asked.number <= times else WELL


def text_of(request: Request) -> str:
    return "".join(answer_to({**request.input, "max_tokens": 256}))


def ended(run: Run) -> Run:
    """Go on until all have ended, however long a rest takes; what is declined comes again."""
    declined: set[str] = set()
    while run.inside:
        run.step()
        declined |= run.declined
    return run


def test_texts_are_passed_on_as_they_come(request: pytest.FixtureRequest) -> None:
    server = Upstream(lambda _: Manner(each_s=0.001), most=4)
    with serving(server) as engine:
        chat = Request("b", generate("b", "x").task, {"messages": [{"role": "user", "content": "a chat"}]}, {})
        two = generate("c", "two", n=2, logprobs=True, top_logprobs=1, max_tokens=3, stop=["q"], seed=5)
        run = ended(Run(engine, generate("a", "hello"), chat, two))
    assert run.texts == {"a": "olleh", "b": "tahc a", "c": "owt", "c/1": "1ow"}
    assert run.result("a") == {"text": "olleh", "finish_reason": "stop"}
    choices = run.result("c")["choices"]
    assert [(each["text"], each["finish_reason"]) for each in choices] == [("owt", "length"), ("1ow", "length")]
    assert choices[0]["logprobs"][0] == {"token": "o", "logprob": -0.5, "top": [{"token": "o", "logprob": -0.5}]} | {
        "top": [{"token": "o", "logprob": -0.5}, {"token": "z", "logprob": -1.5}]
    }
    usage = run.finished["a"].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 5)
    sent = next(each.body for each in server.asked if each.body.get("n") == 2)
    assert (sent["seed"], sent["stop"], sent["logprobs"]) == (5, ["q"], 1)
    assert {each.path for each in server.asked} == {"/v1/completions", "/v1/chat/completions"}


def test_embeddings_are_those_of_the_server_normalised_as_here() -> None:
    server = Upstream(most=4)
    with serving(server, tasks=("embed",)) as engine:
        plain = embed("a", "x", "yy", normalize=False)
        run = ended(Run(engine, plain, embed("b", "x", dimensions=2), embed("c", "x", dimensions=4)))
    assert run.finished["a"].result == {"embeddings": [vector_of("x"), vector_of("yy")]}
    [row] = run.finished["b"].result["embeddings"]
    assert sum(number**2 for number in row) == pytest.approx(1.0)
    assert len(row) == 2
    assert run.errors["c"].code == "invalid_request"


def test_a_key_and_the_servers_own_name_for_the_model_are_sent() -> None:
    server = Upstream(most=2)
    with serving(server, each=[{"key_env": "KEY", "model": "big"}]) as engine:
        ended(Run(engine, generate("a", "x")))
    assert server.asked[0].headers["authorization"] == "Bearer s3cret"
    assert server.asked[0].body["model"] == "big"


def test_tokens_are_counted_where_the_server_does_not() -> None:
    server = Upstream(lambda _: Manner(usage=False, done=False), most=2)
    with serving(server) as engine:
        run = ended(Run(engine, generate("a", "x" * 40, max_tokens=7)))
    usage = run.finished["a"].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 7)


SPOILT = [
    Manner(end="reset"),
    Manner(end="hang"),
    Manner(status=500),
    Manner(status=503),
    Manner(body=b"{}"),
    Manner(status=302, headers={"Location": "http://127.0.0.1:9/"}),
    Manner(status=401),
    # What httpx or we would stumble over, who need none of it.
    Manner(status=302, headers={"Location": "mailto:x"}),
    Manner(status=429, headers={"Retry-After": "0"}),
]


@pytest.mark.parametrize("manner", SPOILT, ids=lambda manner: f"{manner.status}-{manner.end}")
def test_one_that_was_not_answered_is_answered_by_another(manner: Manner) -> None:
    bad, good = Upstream(lambda _: manner, most=2), Upstream(most=2)
    with serving(bad, good) as engine:
        asked = [generate(name, f"job {name}") for name in "abcd"]
        run = ended(Run(engine, *asked))
    assert run.texts == {each.id: text_of(each) for each in asked}
    assert bad.asked


@pytest.mark.parametrize("end", ["reset", "close", "hang", "nonsense", "error", "dropped"])
def test_half_an_answer_is_a_failure_that_may_be_tried_again(end: str) -> None:
    bad, good = Upstream(lambda _: Manner(end=end, tokens=2), most=1), Upstream(most=1)
    with serving(bad, good) as engine:
        run = ended(Run(engine, generate("a", "hello")))
    assert run.texts == {"a": "ol"}
    assert (run.errors["a"].code, run.errors["a"].retryable) == ("upstream_error", True)


def test_what_the_request_is_to_blame_for_is_told_without_our_key() -> None:
    said = {"error": {"message": "too long for s3cret", "code": "context_length_exceeded"}}
    server = Upstream(lambda _: Manner(status=400, body=said), most=2)
    with serving(server, each=[{"key_env": "KEY"}]) as engine:
        run = ended(Run(engine, generate("a", "x")))
    error = run.errors["a"]
    assert (error.code, error.message, error.retryable) == ("context_length_exceeded", "too long for …", False)
    assert len(server.asked) == 1


def test_a_cookie_is_not_kept_so_that_one_job_tells_nothing_of_another_and_none_is_broken_by_it() -> None:
    server = Upstream(first(Manner(status=400, headers={"Set-Cookie": "é=1"})), most=2)
    with serving(server) as engine:
        assert list(ended(Run(engine, generate("a", "x"))).errors) == ["a"]
        assert ended(Run(engine, generate("b", "y"))).texts == {"b": "y"}
    assert "cookie" not in server.asked[1].headers


def test_while_all_are_busy_jobs_wait_in_their_lane_and_are_not_charged() -> None:
    busy = Manner(status=429, headers={"Retry-After": "1"})
    server = Upstream(first(busy), most=4)
    with serving(server) as engine:
        began = time.monotonic()
        run = ended(Run(engine, generate("a", "x")))
        assert run.declined == {"a"}
        assert engine.capacity() == 0
        assert [each.state for each in engine.instances()] == ["resting"]
        until(lambda: engine.capacity() == 4, "the end of the rest")
        assert time.monotonic() - began >= 1
        again = ended(Run(engine, generate("a", "x")))
    assert again.texts == {"a": "x"}
    assert len(server.asked) == 2


def test_a_server_that_is_gone_is_left_alone_until_it_is_back() -> None:
    server = Upstream(most=4)
    with serving(server) as engine:
        server.take_away()
        run = ended(Run(engine, generate("a", "x")))
        assert run.declined == {"a"}
        assert [each.state for each in engine.instances()] == ["open"]
        server.bring_back()
        until(lambda: engine.capacity() == 1, "one request, to see how it is")
        assert ended(Run(engine, generate("a", "x"))).texts == {"a": "x"}
        assert engine.capacity() == 2
        for name in "bcd":
            ended(Run(engine, generate(name, "x")))
        assert engine.capacity() == 4


def test_cancel_closes_the_connection_and_cut_keeps_what_there_is() -> None:
    server = Upstream(lambda _: Manner(each_s=0.05), most=2)
    with serving(server) as engine:
        run = Run(engine, generate("a", "x" * 100), generate("b", "y" * 100))
        while not {"a", "b"} <= run.texts.keys():
            run.step()
        run.cancel("a")
        cut = run.cut("b")
        assert engine.capacity() == 2
        until(lambda: server.left == 2, "both connections to be closed")
    assert cut.result == {"text": run.texts["b"], "finish_reason": "deadline"}


def one_at_a_time(manner: Callable[[Asked], Manner], **given: Any) -> Upstream:
    return Upstream(manner, most=1, **given)


def test_one_at_a_time_never_has_two_whatever_becomes_of_the_first() -> None:
    """It goes on for a while with what was left, and a second request in that time would end both."""
    trouble = [Manner(end="hang"), Manner(end="reset"), Manner(status=500), Manner(first_s=5.0), Manner(status=429)]
    trouble += [Manner(end="hang", tokens=1), Manner(end="late")]

    def manner(asked: Asked) -> Manner:
        return WELL if asked.number % 2 else trouble[asked.number // 2 % len(trouble)]

    servers = [one_at_a_time(manner, lingers_s=0.3) for _ in range(2)]
    with serving(*servers, rest_seconds=0.5) as engine:
        waiting = [generate(f"r{number}", f"request {number}") for number in range(24)]
        run, since = Run(engine), time.monotonic()
        while (waiting or run.inside) and time.monotonic() - since < 120:
            while waiting and engine.capacity():
                run.submit(waiting.pop())
            outputs = run.step()
            again = {each.id for each in outputs} & (run.declined | set(run.errors))
            for name in again:
                run.declined.discard(name)
                run.errors.pop(name, None)
                run.texts.pop(name, None)
                run.told.pop(name, None)
                waiting.append(generate(name, f"request {name[1:]}"))
            if not outputs and not run.inside:
                time.sleep(0.02)
            if len(run.inside) % 3 == 2 and run.finished:
                name = min(run.inside)
                run.cancel(name)
                run.texts.pop(name, None)
                run.told.pop(name, None)
                waiting.append(generate(name, f"request {name[1:]}"))
    assert sorted(run.finished) == sorted(f"r{number}" for number in range(24))
    assert {name: done.result["text"] for name, done in run.finished.items()} == {
        name: f"request {name[1:]}"[::-1] for name in run.finished
    }
    assert [server.breaches for server in servers] == [0, 0]
    assert [server.at_once for server in servers] == [1, 1]


def test_one_that_takes_one_at_a_time_is_not_probed_while_it_works() -> None:
    server = one_at_a_time(lambda _: Manner(first_s=0.25))
    with serving(server) as engine:
        probes = server.probes
        ended(Run(engine, generate("a", "x")))
        assert (probes, server.probes) == (1, 1)


def test_two_slots_share_no_server() -> None:
    leases, server = MemoryLeases(), one_at_a_time(lambda _: WELL)
    with serving(server, leases=leases) as engine:
        spec = ModelSpec.model_validate(
            {"alias": "m", "engine": "openai", "instances": ({"url": server.url},), **QUICK, "connect_seconds": 0.2}
        )
        other = load_upstream(spec, leases, {})
        try:
            assert (engine.capacity(), other.capacity()) == (1, 0)
            assert [each.state for each in other.instances()] == ["elsewhere"]
            engine.close()
            until(lambda: other.capacity() == 1, "the lease that was let go")
        finally:
            other.close()


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, worker.slot\n"
        "from worker.engines.upstream import loading\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert run([sys.executable, "-c", code], check=False).returncode == 0
