"""The client's pure parts: bodies of bulk submits, lines, events, the decision to send again, and the driver."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ktqueue.client.bulk import MAX_BYTES, MAX_LINES, bodies
from ktqueue.client.errors import ApiError, ConnectionFailed, InvalidRequest, RateLimited, ServerError, Unavailable
from ktqueue.client.http import base_url, trusts_proxies
from ktqueue.client.retrying import delay_before_retry
from ktqueue.client.sse import EventParser
from ktqueue.client.values import JobSpec
from ktqueue.client.wire import Lines, run


def test_a_body_has_no_more_lines_than_it_may() -> None:
    job: JobSpec = {"model": "m", "input": "x"}
    assert [len(lines) for lines in bodies([job] * (2 * MAX_LINES + 1))] == [MAX_LINES, MAX_LINES, 1]
    assert [len(lines) for lines in bodies([job] * MAX_LINES)] == [MAX_LINES]
    assert list(bodies([])) == []


def test_a_body_has_no_more_bytes_than_it_may_but_a_large_job_travels_alone() -> None:
    third = "x" * (MAX_BYTES // 3 - 2)
    cut = [len(lines) for lines in bodies([third, third, third, "small", "y" * 2 * MAX_BYTES, "small"])]
    assert cut == [3, 1, 1, 1]


def test_lines_of_text_are_sent_as_they_are_and_blank_ones_keep_their_number() -> None:
    (lines,) = bodies(['{"broken"\r\n', "", b"  \n", b'{"a": 1}', {"model": "m", "input": {"n": 1}, "priority": 0}])
    assert [line.number for line in lines] == [1, 4, 5]
    assert [line.text for line in lines[:2]] == [b'{"broken"\n', b'{"a": 1}\n']
    assert json.loads(lines[2].text) == {"model": "m", "input": {"n": 1}, "priority": 0}


def test_lines_are_put_together_from_chunks() -> None:
    lines = Lines()
    assert lines.feed(b"a\r") == []
    assert lines.feed(b"\nb\n\nc") == [b"a", b"b", b""]
    assert lines.feed(b"\n") == [b"c"]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_events_are_put_together_from_chunks(size: int) -> None:
    text = (
        'retry: 1000\n\n: hello\n\nid: 1-1\nevent: token\ndata: {\ndata: "text": "é\u2028"}\n\n'
        "event: lost\n\nid:1-2\r\nunknown: x\r\ndata: {}\r\n\r\nid: 1-3\ndata: {}"
    ).encode()
    parser = EventParser()
    told = [event for start in range(0, len(text), size) for event in parser.feed(text[start : start + size])]
    assert [(event.id, event.type, event.data) for event in told] == [
        ("1-1", "token", {"text": "é\u2028"}),
        ("1-2", "message", {}),
    ]


def api_error(kind: type[ApiError], retry_after: float | None = None) -> ApiError:
    return kind("no", status=0, code="no", retry_after=retry_after)


LOST, UNSENT = ConnectionFailed("lost", sent=True), ConnectionFailed("refused", sent=False)


@pytest.mark.parametrize(
    ("error", "repeatable", "again"),
    [
        (UNSENT, True, True),
        (UNSENT, False, True),
        (LOST, True, True),
        (LOST, False, False),
        (api_error(RateLimited), True, True),
        (api_error(RateLimited), False, True),
        (api_error(Unavailable), True, True),
        (api_error(Unavailable), False, False),
        (api_error(ServerError), True, False),
        (api_error(InvalidRequest), True, False),
    ],
)
def test_only_what_is_safe_is_sent_again(error: ConnectionFailed | ApiError, repeatable: bool, again: bool) -> None:
    delay = delay_before_retry(error, tries=1, max_retries=1, repeatable=repeatable, jitter=0.5)
    assert (delay is not None) == again
    assert delay_before_retry(error, tries=2, max_retries=1, repeatable=repeatable, jitter=0.5) is None


def test_the_pauses_grow_and_are_spread() -> None:
    def delay(tries: int, jitter: float, **more: Any) -> float | None:
        return delay_before_retry(UNSENT, tries=tries, max_retries=99, repeatable=True, jitter=jitter, **more)

    assert [delay(tries, 1.0) for tries in (1, 2, 3, 4, 5, 6, 7, 50)] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert delay(3, 0.25) == 0.25


def test_the_servers_own_pause_is_kept_up_to_a_bound() -> None:
    def delay(retry_after: float) -> float | None:
        error = api_error(Unavailable, retry_after)
        return delay_before_retry(error, tries=1, max_retries=1, repeatable=True, jitter=0.5)

    assert delay(10.0) == pytest.approx(10.5)
    assert delay(0.0) == 0.0
    assert delay(121.0) is None


def test_a_coroutine_that_suspends_can_not_be_run_without_a_loop() -> None:
    with pytest.raises(RuntimeError, match="use AsyncClient"):
        run(asyncio.sleep(0))


@pytest.mark.parametrize(
    ("url", "trusted"),
    [
        ("http://127.0.0.1:8000", False),
        ("http://localhost", False),
        ("http://[::1]:8000", False),
        ("https://example.org/ktqueue", True),
    ],
)
def test_this_machine_is_never_reached_through_a_proxy(url: str, trusted: bool) -> None:
    assert trusts_proxies(base_url(url)) is trusted
