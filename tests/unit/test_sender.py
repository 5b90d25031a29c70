"""One attempt to deliver: what goes out, and over which connection."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from ktqueue.webhook_addresses import destination
from tests.support.receivers import (
    BODY,
    OK,
    PUBLIC,
    Detour,
    Visit,
    names,
    once,
    post,
    receiving,
    saying,
    sending,
    well,
)
from worker.outgoing.connection import Connection
from worker.outgoing.idle import IdleConnections


def test_a_request_says_what_it_must_and_no_more() -> None:
    async def run() -> None:
        async with receiving(well) as receiver, sending() as sender:
            answer = await post(sender, receiver.url("/a%20b?c=d"))

            assert (answer.status, answer.error, answer.body, answer.good) == (200, None, "ok", True)
            ((head, body),) = receiver.visits[0].requests
            assert head.decode().lower().split("\r\n") == [
                "post /a%20b?c=d http/1.1",
                f"host: 127.0.0.1:{receiver.port}",
                "accept-encoding: identity",
                "content-length: 14",
                "webhook-id: evt_1",
                "content-type: application/json",
                "user-agent: ktqueue/0",
                "",
                "",
            ]
            assert body == BODY

    asyncio.run(run())


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\n", "\u00e9", "a\x00"])
def test_a_header_says_one_thing(value: str) -> None:
    async def run() -> None:
        async with receiving(well) as receiver, sending() as sender:
            with pytest.raises(ValueError, match="printable ASCII"):
                await sender.send(receiver.url(), {"webhook-id": value}, BODY, timeout_s=20)

            assert not receiver.visits

    asyncio.run(run())


def test_proxies_of_the_environment_and_cookies_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def cookies(visit: Visit) -> None:
        while True:
            await visit.request()
            await visit.say(b"HTTP/1.1 200 OK\r\nset-cookie: a=b; path=/\r\ncontent-length: 0\r\n\r\n")

    async def run() -> None:
        async with receiving(well) as proxy, receiving(cookies) as receiver, sending() as sender:
            for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.url(""))
            answers = [await post(sender, receiver.url()) for _ in range(2)]

            assert [answer.status for answer in answers] == [200, 200]
            assert not proxy.visits
            assert len(receiver.requests) == 2
            assert not any(b"cookie" in head.lower() for head in receiver.requests)

    asyncio.run(run())


# Which connections are used again.


def test_a_connection_is_used_again_for_the_same_origin_only() -> None:
    async def run() -> None:
        async with receiving(well) as receiver:
            resolve = names(a_example_com=[PUBLIC], b_example_com=[PUBLIC])
            detour = Detour(receiver.port)
            async with sending("", resolve=resolve, connect=detour) as sender:
                for url in (
                    "http://a.example.com/1",
                    "http://a.example.com/2",
                    "http://b.example.com/",
                    "http://a.example.com:8080/",
                ):
                    assert (await post(sender, url)).good

            assert [len(visit.requests) for visit in receiver.visits] == [2, 1, 1]
            assert b"host: a.example.com:8080\r\n" in receiver.requests[-1].lower()

    asyncio.run(run())


def test_requests_at_once_get_connections_of_their_own() -> None:
    async def run() -> None:
        async with receiving(well) as receiver, sending() as sender:
            answers = await asyncio.gather(*(post(sender, receiver.url()) for _ in range(20)))
            answers += await asyncio.gather(*(post(sender, receiver.url()) for _ in range(20)))

            assert all(answer.good for answer in answers)
            assert len(receiver.visits) == 20

    asyncio.run(run())


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_closed_while_it_waited_is_replaced_once(reset: bool) -> None:
    async def closes(visit: Visit) -> None:
        await visit.request()
        await visit.say(OK)
        if reset:  # even after the next request has come
            await visit.request()
            visit.reset()

    async def run() -> None:
        async with receiving(closes) as receiver, sending() as sender:
            for _ in range(3):
                assert (await post(sender, receiver.url())).good
                if not reset:
                    await receiver.visits[-1].over.wait()

            assert len(receiver.visits) == 3

    asyncio.run(run())


@pytest.mark.parametrize(("reset", "error"), [(False, "answer_malformed"), (True, "connection_failed")])
def test_an_answer_that_had_begun_is_not_asked_for_again(reset: bool, error: str) -> None:
    async def dies(visit: Visit) -> None:
        await visit.request()
        await visit.say(OK)
        await visit.request()
        await visit.say(b"HTTP/1.1 200 OK\r\n")
        if reset:
            visit.reset()

    async def run() -> None:
        async with receiving(dies) as receiver, sending() as sender:
            assert (await post(sender, receiver.url())).good
            answer = await post(sender, receiver.url())

            assert (answer.status, answer.error) == (None, error)
            assert len(receiver.visits) == 1

    asyncio.run(run())


def test_a_fresh_connection_that_is_lost_is_not_replaced() -> None:
    async def breaks_off(visit: Visit) -> None:
        await visit.request()
        visit.reset()

    answer, receiver = once(breaks_off)

    assert (answer.status, answer.error) == (None, "connection_failed")
    assert len(receiver.visits) == 1


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
    ],
)
def test_a_connection_in_doubt_is_not_used_again(answer: bytes) -> None:
    async def run() -> None:
        async with receiving(saying(answer, then_close=True)) as receiver, sending() as sender:
            for _ in range(2):
                assert (await post(sender, receiver.url())).status == 200

            assert len(receiver.visits) == 2

    asyncio.run(run())


def test_what_nobody_asked_for_answers_no_later_request() -> None:
    async def eager(visit: Visit) -> None:
        await visit.request()
        await visit.say(OK)
        await visit.say(b"HTTP/1.1 500 planted\r\ncontent-length: 0\r\n\r\n")
        await visit.reader.read()

    async def run() -> None:
        async with receiving(eager) as receiver, sending() as sender:
            assert (await post(sender, receiver.url())).good
            await receiver.visits[0].over.wait()
            assert (await post(sender, receiver.url())).good

    asyncio.run(run())


def test_ten_thousand_receivers_leave_a_bounded_number_of_connections() -> None:
    idle = IdleConnections(most=100)
    made = [Connection(ip_address(PUBLIC), idle.forget) for _ in range(10_000)]
    for number, connection in enumerate(made):
        connection.reusable = True
        idle.put(destination(f"http://r{number}.example.com/"), connection)

    assert len(idle) == len(idle._of) == 100
    assert idle.take(destination("http://r1.example.com/"), [ip_address(PUBLIC)]) is None
    assert idle.take(destination("http://r9999.example.com/"), [ip_address(PUBLIC)]) is made[-1]
    assert [connection.reusable for connection in made] == [False] * 9_900 + [True] * 100
    idle.close()
    assert (len(idle), len(idle._of)) == (0, 0)


def test_a_connection_that_has_waited_long_is_closed() -> None:
    idle = IdleConnections(idle_s=0.0)
    connection = Connection(ip_address(PUBLIC), idle.forget)
    connection.reusable = True
    idle.put(destination("http://example.com/"), connection)

    assert idle.take(destination("http://example.com/"), [ip_address(PUBLIC)]) is None
    assert not connection.reusable


def test_a_connection_that_ended_is_forgotten() -> None:
    idle = IdleConnections()
    connection = Connection(ip_address(PUBLIC), idle.forget)
    idle.put(destination("http://example.com/"), connection)

    connection.connection_lost(None)

    assert (len(idle), len(idle._of)) == (0, 0)


def test_a_send_that_is_cancelled_leaves_no_connection() -> None:
    async def run() -> None:
        asked = asyncio.Event()

        async def mute(visit: Visit) -> None:
            await visit.request()
            asked.set()
            await visit.reader.read()

        async with receiving(mute) as receiver, sending() as sender:
            task = asyncio.create_task(post(sender, receiver.url()))
            await asked.wait()
            task.cancel()
            await receiver.visits[0].over.wait()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
