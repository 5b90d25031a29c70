"""Where an attempt to deliver may go: names, addresses, redirects."""

from __future__ import annotations

import asyncio
from threading import Event
from typing import Any

import pytest

from tests.support.receivers import (
    OTHER,
    PRIVATE,
    PUBLIC,
    Detour,
    names,
    post,
    receiving,
    saying,
    sending,
    well,
)
from worker.outgoing.resolver import Resolver


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    async def run() -> None:
        async with receiving(well) as inside:
            moved = f"HTTP/1.1 {status} Moved\r\nlocation: {inside.url()}\r\ncontent-length: 0\r\n\r\n".encode()
            async with receiving(saying(moved)) as receiver, sending() as sender:
                answer = await post(sender, receiver.url())

                assert (answer.status, answer.good) == (status, False)
            assert not inside.visits

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answers", "taken"),
    [
        ([PRIVATE], []),
        ([f"{PUBLIC} {PRIVATE}"], []),
        ([f"{PRIVATE} {PUBLIC}"], []),
        (["127.0.0.1"], []),
        (["::1"], []),
        (["::ffff:8.8.8.8"], []),
        (["fe80::1%lo"], []),
        (["64:ff9b::7f00:1"], []),
        ([PUBLIC, PRIVATE], [PUBLIC]),
        ([PUBLIC, PUBLIC, "169.254.169.254"], [PUBLIC]),
    ],
)
def test_a_name_with_a_private_address_is_refused_whenever_it_gets_it(answers: list[str], taken: list[str]) -> None:
    async def run() -> None:
        async with receiving(well) as receiver:
            detour = Detour(receiver.port)
            async with sending("", resolve=names(hooks_example_com=answers), connect=detour) as sender:
                told = [await post(sender, "http://hooks.example.com/") for _ in answers]

                assert [answer.error for answer in told[:-1]] == [None] * (len(answers) - 1)
                assert (told[-1].status, told[-1].error) == (None, "address_refused")
                assert detour.taken == taken
                assert len(receiver.requests) == len(answers) - 1

    asyncio.run(run())


def test_a_kept_connection_is_left_when_its_name_moves() -> None:
    async def run() -> None:
        async with receiving(well) as receiver:
            detour = Detour(receiver.port)
            resolve = names(hooks_example_com=[PUBLIC, f"{OTHER} {PUBLIC}", OTHER, OTHER])
            async with sending("", resolve=resolve, connect=detour) as sender:
                for _ in range(4):
                    assert (await post(sender, "http://hooks.example.com/")).good

                assert detour.taken == [PUBLIC, OTHER]

    asyncio.run(run())


def test_only_addresses_that_were_checked_are_connected_to() -> None:
    async def run() -> None:
        async with receiving(well) as receiver:
            detour = Detour(receiver.port, dead=[PUBLIC])
            resolve = names(hooks_example_com=[f"{PUBLIC} {OTHER}"])
            async with sending("", resolve=resolve, connect=detour) as sender:
                assert (await post(sender, "http://hooks.example.com/")).good
            assert detour.taken == [PUBLIC, OTHER]
            assert b"host: hooks.example.com\r\n" in receiver.requests[0].lower()

            dead = Detour(receiver.port, dead=[PUBLIC, OTHER])
            async with sending("", resolve=names(hooks_example_com=[f"{PUBLIC} {OTHER}"]), connect=dead) as sender:
                assert (await post(sender, "http://hooks.example.com/")).error == "connection_failed"
            assert dead.taken == [PUBLIC, OTHER]

    asyncio.run(run())


def test_of_many_addresses_only_some_are_tried() -> None:
    async def run() -> None:
        many = [f"8.8.8.{number}" for number in range(200)]
        detour = Detour(0, dead=many)
        async with sending("", resolve=names(many_example_com=[" ".join(many)]), connect=detour) as sender:
            assert (await post(sender, "http://many.example.com/")).error == "connection_failed"
        assert detour.taken == many[:4]

    asyncio.run(run())


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.2/",
        "http://169.254.169.254/",
        "http://[::1]/",
        "http://localhost/",
        "ftp://example.com/",
        "",
        "http://127.1/",
    ],
)
def test_a_url_that_is_not_allowed_any_more_is_refused(url: str) -> None:
    async def run() -> None:
        detour = Detour(0)
        async with sending(connect=detour) as sender:
            answer = await post(sender, url)

        assert (answer.status, answer.error, answer.body) == (None, "address_refused", "")
        assert not detour.taken

    asyncio.run(run())


def test_a_trusted_name_goes_wherever_it_points() -> None:
    async def run() -> None:
        resolve = names(receiver=["127.0.0.1"])
        async with receiving(well) as receiver, sending("receiver", resolve=resolve) as sender:
            assert (await post(sender, f"http://receiver:{receiver.port}/")).good

    asyncio.run(run())


def test_a_closed_port_is_a_failed_connection() -> None:
    async def run() -> None:
        async with receiving(well) as receiver:
            gone = receiver.url()
        async with sending() as sender:
            assert (await post(sender, gone)).error == "connection_failed"

    asyncio.run(run())


@pytest.mark.parametrize("fails", [OSError("no such name"), UnicodeError("label too long")])
def test_a_name_without_an_address_is_told_apart(fails: Exception) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        raise fails

    async def run() -> None:
        async with sending(resolve=Resolver(getaddrinfo)) as sender:
            answer = await post(sender, "http://nowhere.example.com/")
            assert (answer.status, answer.error) == (None, "name_not_resolved")

    asyncio.run(run())


def test_the_system_is_asked_for_names() -> None:
    async def run() -> None:
        async with receiving(well) as receiver, sending("localhost") as sender:
            assert (await post(sender, f"http://localhost:{receiver.port}/")).good

    asyncio.run(run())


def test_a_dead_name_server_holds_up_nobody_else_and_costs_one_look_up() -> None:
    asked: list[str] = []
    answers = Event()

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        if host == "dead.example.com":
            answers.wait(60)
        return [(None, None, None, "", (PUBLIC, 0)), (None, None, None, "", (PUBLIC, 0))]

    async def run() -> None:
        async with receiving(well) as receiver:
            detour = Detour(receiver.port)
            async with sending("", resolve=Resolver(getaddrinfo), connect=detour) as sender:
                late = [
                    asyncio.create_task(post(sender, "http://dead.example.com/", timeout_s=0.2)) for _ in range(200)
                ]
                others = [await post(sender, f"http://r{number}.example.com/") for number in range(100)]

                assert all(answer.good for answer in others)
                assert {answer.error for answer in await asyncio.gather(*late)} == {"timeout"}
                assert asked.count("dead.example.com") == 1
                answers.set()
                assert (await post(sender, "http://dead.example.com/")).good
                assert (await post(sender, "http://dead.example.com/")).good
                assert asked.count("dead.example.com") in {2, 3}

    try:
        asyncio.run(run())
    finally:
        answers.set()
