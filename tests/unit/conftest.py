"""Either client of a scripted server, for the tests of what both do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.client import AsyncSubject, Connect, Server, Subject, SyncSubject, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=[SyncSubject, AsyncSubject])
def connect(request: pytest.FixtureRequest, world: World) -> Iterator[Connect]:
    """Makes a client, sync or async, of a scripted server."""
    made: list[Subject] = []

    def make(server: Server, **options: Any) -> Subject:
        made.append(request.param(server, world, **options))
        return made[-1]

    yield make
    for subject in made:
        subject.close()
