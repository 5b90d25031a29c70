"""``ktqueue top``: lanes and slots as they are, second by second, over the API."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import click

from ktqueue.bounded import Bounded
from ktqueue.cli.app import Session, session
from ktqueue.cli.frame import Seen, frame
from ktqueue.cli.numbers import Seconds
from ktqueue.cli.show import console, duration, emit

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ktqueue.client import Client

PATIENCE_S = 5.0
"""How long one look may take."""
HASTE_S = 0.5
"""How long it is waited for: meanwhile no key is heard."""


class View:
    """What was seen last, and since when the server does not answer. ``clock`` is in seconds."""

    def __init__(self, url: str, look: Callable[[], Seen], clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._look = look
        self._clock = clock
        self._seen = Seen()
        self._trouble: str | None = None
        self._gone_at: float | None = None

    def look(self) -> None:
        """Ask the server. One that is away is survived; raises KtqueueClientError for one that says no."""
        from ktqueue.client import ConnectionFailed, ServerError, Unavailable

        try:
            self._seen = self._look()
        except (TimeoutError, ConnectionFailed, ServerError, Unavailable) as error:
            self._gone_at = self._clock() if self._gone_at is None else self._gone_at
            gone_ms = 1000 * (self._clock() - self._gone_at)
            self._trouble = f"no answer for {duration(gone_ms)}, trying again: {str(error) or 'it is slow'}"
        else:
            self._gone_at = self._trouble = None

    def frame(self, height: int | None) -> RenderableType:
        """What to show, in so many lines."""
        return frame(self._seen, head(self._url), self._trouble, height=height)


def head(url: str) -> str:
    """The first line."""
    now = datetime.now().astimezone()  # noqa: TID251 - for a person to read
    return f"ktqueue top  {url}  {now:%H:%M:%S}"


@click.command()
@click.option("--once", is_flag=True, help="Print one frame and end; exits 3 if nobody answers.")
@click.option("--interval", type=Seconds(min=0.1), default=1.0, show_default=True, help="Seconds between looks.")
@session
def top(session: Session, once: bool, interval: float) -> None:
    """Watch lanes and slots: what waits and runs, batches, tokens per second, memory. q or Ctrl-C ends it."""
    if once or session.as_json:
        with session.client() as client:
            seen = look(client)
        if session.as_json:
            for each in (*seen.lanes, *seen.workers):
                emit(each)
            return
        console().print(frame(seen, head(session.url)))
        return
    with session.client(timeout=PATIENCE_S, max_retries=0) as client:
        watch(session, View(session.url, Bounded(lambda: look(client), most_s=HASTE_S)), interval)


def look(client: Client) -> Seen:
    """Both at about one moment."""
    return Seen(client.lanes(), client.operator.workers())


def watch(session: Session, view: View, interval: float) -> None:
    """Show it until a key ends it."""
    from rich.live import Live

    from ktqueue.cli.keyboard import pauses

    screen = console()
    try:
        with (
            pauses(session.app.sleep) as pause,
            Live(console=screen, auto_refresh=False, screen=screen.is_terminal) as live,
        ):
            while True:
                view.look()
                live.update(view.frame(screen.height if screen.is_terminal else None), refresh=True)
                if pause(interval):
                    return
    except KeyboardInterrupt:
        return


COMMANDS = (top,)
