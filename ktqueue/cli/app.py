"""What the commands share: the world around them, the way to the server, and how they end."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import httpx

    from ktqueue.client import Client, KtqueueClientError
    from ktqueue.settings import Settings

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = "KTQUEUE_URL"
KEY_VARIABLE = "KTQ_API_KEY"


def _exec(program: str, arguments: list[str]) -> None:
    os.execv(program, arguments)  # noqa: S606 - the point: signals then go straight to the program


@dataclass(frozen=True, slots=True)
class App:
    """The world around the commands; tests pass another one."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    transport: httpx.BaseTransport | None = None
    sleep: Callable[[float], None] = time.sleep
    become: Callable[[str, list[str]], None] = _exec

    def settings(self, **defaults: str) -> Settings:
        """The service's settings; ``defaults`` are for what the environment leaves out. Raises ConfigurationError."""
        from ktqueue.settings import PREFIX, Settings

        return Settings.from_env({PREFIX + name.upper(): value for name, value in defaults.items()} | {**self.environ})


class Unsuccessful(click.ClickException):
    """A job ended other than succeeded, or a webhook was not taken."""

    exit_code = 1


class WrongUse(click.ClickException):
    """The command line, the environment or models.toml is wrong."""

    exit_code = 2


class Unreachable(click.ClickException):
    """Nobody answered."""

    exit_code = 3


class Refused(click.ClickException):
    """The server said no."""

    exit_code = 4


class TimedOut(click.ClickException):
    """It was not finished in time."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Session:
    """One command's talk with a server."""

    app: App
    url: str
    as_json: bool

    @contextmanager
    def client(self, *, timeout: float = 30.0, max_retries: int = 3) -> Iterator[Client]:
        """A client, as patient as is said; its errors end the command."""
        from ktqueue.client import Client, KtqueueClientError

        try:
            key = self.app.environ.get(KEY_VARIABLE) or None
            client = Client(
                self.url,
                api_key=key,
                timeout=timeout,
                max_retries=max_retries,
                transport=self.app.transport,
                sleep=self.app.sleep,
            )
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--url") from error
        with client:
            try:
                yield client
            except KtqueueClientError as error:
                raise _end(error) from error


def _end(error: KtqueueClientError) -> click.ClickException:
    """How the command ends: one line on stderr, and an exit code."""
    from ktqueue.client import ConnectionFailed, JobEnded, WaitTimeout

    if isinstance(error, ConnectionFailed):
        return Unreachable(str(error))
    if isinstance(error, WaitTimeout):
        return TimedOut(str(error))
    return Unsuccessful(str(error)) if isinstance(error, JobEnded) else Refused(str(error))


def json_option(function: Callable[..., None]) -> Callable[..., None]:
    """Adds ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")(function)


def session(function: Callable[..., None]) -> Callable[..., None]:
    """Adds ``--url`` and ``--json``, and passes a Session instead of them."""

    @json_option
    @click.option(
        "--url", envvar=URL_VARIABLE, default=DEFAULT_URL, show_default=True, show_envvar=True, help="The server."
    )
    @click.pass_obj
    @functools.wraps(function)
    def command(app: App, /, *args: Any, url: str, as_json: bool, **options: Any) -> None:
        function(Session(app, url, as_json), *args, **options)

    return command
