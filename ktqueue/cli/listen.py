"""``ktqueue webhooks listen``: a receiver on this machine, registered for as long as it runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

import click

from ktqueue.cli.app import Refused, Session, session
from ktqueue.cli.show import compact
from ktqueue.webhook import SUBSCRIBABLE

if TYPE_CHECKING:
    from ktqueue.client import Client, WebhookEndpoint
    from ktqueue.receiver import Received, Receiver

EVENTS = click.option(
    *("--event", "--events", "events"),
    multiple=True,
    type=click.Choice(list(SUBSCRIBABLE)),
    metavar="NAME",
    help=f"One of {', '.join(SUBSCRIBABLE)}. May be repeated; left out: those that end a job.",
)
MODEL = click.option("--model", help="Only the jobs of this model.")


@click.command()
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Where to listen; left out: a free port.")
@EVENTS
@MODEL
@click.option("--keep", is_flag=True, help="Leave the endpoint registered at the end.")
@session
def listen(session: Session, port: int, events: Sequence[str], model: str | None, keep: bool) -> None:
    """Receive webhooks here, verify them, and print a line for each, until Ctrl-C.

    For development, with a server on this machine. What jobs send to their own webhooks is taken too.
    """
    from ktqueue.receiver import Receiver

    try:
        receiver = Receiver(port)
    except OSError as error:
        raise click.BadParameter(f"can't listen on port {port}: {error.strerror}", param_hint="--port") from error
    with (
        receiver,
        session.client() as client,
        _ended_like_ctrl_c(),
        _registered(client, receiver, events, model, keep=keep) as endpoint,
    ):
        try:
            _print_events(session, client, receiver, endpoint)
        except KeyboardInterrupt:
            return


def _print_events(session: Session, client: Client, receiver: Receiver, endpoint: WebhookEndpoint) -> None:
    from ktqueue.receiver import Trust

    secrets = [secret for secret in (endpoint.secret, client.webhooks.secret()) if secret]
    trust = Trust(secrets, [key.whpk for key in client.webhooks.public_keys()])
    events: SimpleQueue[Received] = SimpleQueue()
    with receiver.serving(trust, events.put, _complain):
        click.echo(f"{endpoint.id} is {receiver.url}; Ctrl-C ends it", err=True)
        while True:
            event = events.get()
            click.echo(compact(event.body) if session.as_json else str(event))


def _complain(why: str) -> None:
    click.echo(f"refused a request: {why}", err=True)


@contextmanager
def _registered(
    client: Client, receiver: Receiver, events: Sequence[str], model: str | None, *, keep: bool
) -> Iterator[WebhookEndpoint]:
    from ktqueue.client import InvalidRequest

    try:
        endpoint = client.webhooks.create(
            receiver.url, events=events or None, model=model, description="ktqueue webhooks listen"
        )
    except InvalidRequest as error:
        if error.field != "url":
            raise
        raise Refused(f"{error}; to call this machine, the server needs KTQ_WEBHOOK_ALLOW=127.0.0.1") from error
    try:
        yield endpoint
    finally:
        if not keep:
            client.webhooks.delete(endpoint)


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """SIGTERM is a KeyboardInterrupt, so that what was registered is removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
