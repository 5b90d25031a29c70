"""``ktqueue webhooks``: endpoints, and what was delivered to them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import click

from ktqueue.cli.app import Session, Unsuccessful, session
from ktqueue.cli.listen import EVENTS, MODEL, listen
from ktqueue.cli.numbers import COUNT
from ktqueue.cli.show import compact, duration, emit, pairs, table
from ktqueue.webhook import DeliveryState

if TYPE_CHECKING:
    from ktqueue.client import Client, Delivery, WebhookEndpoint

ENDPOINT_ID = click.argument("endpoint", metavar="ID")
TIMEOUT = click.option(
    "--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds to wait for the outcome."
)


@click.group()
def webhooks() -> None:
    """Register endpoints, and see, try out and repeat what they are told."""


@webhooks.command(name="list")
@session
def list_endpoints(session: Session) -> None:
    """List the endpoints, the oldest first."""
    with session.client() as client:
        endpoints = client.webhooks.list()
    if session.as_json:
        for endpoint in endpoints:
            emit(endpoint)
        return
    rows = [(each.id, each.url, ", ".join(each.events), each.model, _state(each)) for each in endpoints]
    table(("id", "url", "events", "model", "state"), rows)


def _state(endpoint: WebhookEndpoint) -> str:
    if not endpoint.enabled:
        return f"disabled ({endpoint.disabled_reason})"
    health = endpoint.health
    return f"{health.state}, failed {health.failures} × in a row" if health.failures else "well"


@webhooks.command()
@click.argument("url_to_call", metavar="URL")
@EVENTS
@MODEL
@click.option("--description", default="", help="For people.")
@session
def create(session: Session, url_to_call: str, events: Sequence[str], model: str | None, description: str) -> None:
    """Register URL as an endpoint; its secret is shown this once."""
    with session.client() as client:
        endpoint = client.webhooks.create(url_to_call, events=events or None, model=model, description=description)
    if session.as_json:
        emit(endpoint)
        return
    pairs({"id": endpoint.id, "events": ", ".join(endpoint.events), "secret": endpoint.secret})


@webhooks.command()
@click.argument("endpoints", nargs=-1, required=True, metavar="ID...")
@session
def delete(session: Session, endpoints: Sequence[str]) -> None:
    """Forget endpoints, and what they were or were to be told."""
    with session.client() as client:
        for endpoint in endpoints:
            client.webhooks.delete(endpoint)
            click.echo(compact({"id": endpoint, "deleted": True}) if session.as_json else f"{endpoint}  deleted")


@webhooks.command()
@click.option("--endpoint", metavar="ID", help="Only those to this endpoint.")
@click.option("--state", type=click.Choice([state.value for state in DeliveryState]))
@click.option("--limit", type=COUNT, default=20, show_default=True, help="Most deliveries to show.")
@session
def deliveries(session: Session, endpoint: str | None, state: str | None, limit: int) -> None:
    """List deliveries, newest first."""
    with session.client() as client:
        found = islice(client.webhooks.deliveries(endpoint=endpoint, state=state), limit)
        if session.as_json:
            for delivery in found:
                emit(delivery)
            return
        headings = ("delivery", "event", "job", "to", "state", "attempts", "next attempt")
        table(headings, map(_row, found))


def _row(delivery: Delivery) -> tuple[object, ...]:
    again = f"{delivery.next_attempt_at:%Y-%m-%d %H:%M:%S} UTC" if delivery.next_attempt_at else None
    to = delivery.endpoint or delivery.url
    return (delivery.id, delivery.event.type, delivery.job, to, delivery.state, delivery.attempts, again)


@webhooks.command()
@ENDPOINT_ID
@TIMEOUT
@session
def test(session: Session, endpoint: str, timeout: float) -> None:
    """Send an endpoint a test event, and say what came of it; exits 1 if it was not taken."""
    with session.client() as client:
        _outcomes(session, client, [client.webhooks.test(endpoint)], timeout)


@webhooks.command()
@click.argument("ids", nargs=-1, required=True, metavar="DELIVERY...")
@TIMEOUT
@session
def redeliver(session: Session, ids: Sequence[str], timeout: float) -> None:
    """Send deliveries once more, and say what came of it; exits 1 unless all were taken."""
    with session.client() as client:
        _outcomes(session, client, [client.webhooks.redeliver(delivery) for delivery in ids], timeout)


def _outcomes(session: Session, client: Client, begun: Sequence[Delivery], timeout: float) -> None:
    failed = 0
    for delivery in begun:
        attempted = client.webhooks.attempted(delivery, timeout)
        if session.as_json:
            emit(attempted)
        else:
            click.echo(_outcome(attempted))
        failed += attempted.state is not DeliveryState.DELIVERED
    if failed:
        raise Unsuccessful(f"{failed} of {len(begun)} deliveries were not taken")


def _outcome(delivery: Delivery) -> str:
    told = f"{delivery.id}  {delivery.event.type}  {delivery.state}"
    if not delivery.attempts_made:
        return told
    last = delivery.attempts_made[-1]
    return f"{told}  {last.error if last.status is None else last.status} after {duration(last.duration_ms)}"


webhooks.add_command(listen)

COMMANDS = (webhooks,)
