"""RSGI, as much of it as is used here: what granian hands over for each request."""

from __future__ import annotations

import typing
from collections.abc import AsyncIterator, Awaitable, Iterator


class Headers(typing.Protocol):
    """Names are in lower case. A value that is not ASCII reads as none."""

    def __contains__(self, name: str) -> bool:
        """Whether it was sent."""

    def __iter__(self) -> Iterator[str]:
        """Every name, once."""

    def __len__(self) -> int:
        """How many names."""

    def get(self, name: str) -> str | None:
        """The first value."""

    def items(self) -> list[tuple[str, str]]:
        """Every value that is ASCII, with its name."""


class Scope(typing.Protocol):
    """What a request's head says. ``server`` and ``client`` are ``address:port``, ``path`` is decoded."""

    method: str
    path: str
    query_string: str
    http_version: str
    scheme: str
    server: str
    client: str
    headers: Headers


class Transport(typing.Protocol):
    """Where the parts of an answer go. It takes them all at once and ends when nobody holds it any more."""

    def send_bytes(self, data: bytes, /) -> Awaitable[None]:
        """Append a part. There is nothing to await: this returns before it is sent."""


class Protocol(typing.Protocol):
    """The body of a request and the way to its answer. Its ``response_…`` may be called in any thread."""

    def __call__(self) -> Awaitable[bytes]:
        """The whole body. Raises RuntimeError if it broke off."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body in pieces; b"" stands for its end, and for where it broke off."""

    def client_disconnect(self) -> Awaitable[None]:
        """Returns when the client has hung up, or was answered and the connection has ended."""

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Answer with a body that is whole."""

    def response_stream(self, status: int, headers: list[tuple[str, str]]) -> Transport:
        """Answer with a body that comes in parts."""
