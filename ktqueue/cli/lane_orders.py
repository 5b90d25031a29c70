"""``ktqueue lanes pause``, ``resume``, ``drain``, ``set``, ``move``, ``purge``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ktqueue.cli.app import Session, session
from ktqueue.cli.numbers import Seconds
from ktqueue.cli.show import emit

if TYPE_CHECKING:
    from ktqueue.client import Lane, Purge

MODEL = click.argument("model")


@click.command()
@MODEL
@session
def pause(session: Session, model: str) -> None:
    """Have a lane take jobs and keep them; what runs goes on."""
    with session.client() as client:
        _tell(session, client.operator.pause(model))


@click.command()
@MODEL
@session
def resume(session: Session, model: str) -> None:
    """Have a lane take jobs and run them again."""
    with session.client() as client:
        _tell(session, client.operator.resume(model))


@click.command()
@MODEL
@session
def drain(session: Session, model: str) -> None:
    """Have a lane take no new jobs, and run those that it has."""
    with session.client() as client:
        _tell(session, client.operator.drain(model))


@click.command(name="set")
@MODEL
@click.option("--concurrency", type=click.IntRange(min=1), help="Most jobs that may run at once, over all slots.")
@click.option("--no-concurrency", is_flag=True, help="As many as fit.")
@session
def set_lane(session: Session, model: str, concurrency: int | None, no_concurrency: bool) -> None:
    """Bound how many jobs of a lane run at once."""
    if (concurrency is None) != no_concurrency:
        raise click.UsageError("give either --concurrency or --no-concurrency")
    with session.client() as client:
        _tell(session, client.operator.bound(model, concurrency))


@click.command()
@MODEL
@click.option("--from", "source", metavar="WORKER", help="Who is to serve it no more; its jobs go back to the lane.")
@click.option("--to", "target", metavar="WORKER", help="Who is to serve it.")
@session
def move(session: Session, model: str, source: str | None, target: str | None) -> None:
    """Move a model between workers; `ktqueue rosters` names them."""
    if source == target:
        raise click.UsageError("give --from, --to, or both")
    with session.client() as client:
        _tell(session, client.operator.move(model, source=source, target=target))


@click.command()
@MODEL
@click.option("--tenant", help="Only this tenant's jobs.")
@click.option("--older-than", type=Seconds(min=0), metavar="SECONDS", help="Only jobs created so long ago.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@session
def purge(
    session: Session, model: str, *, tenant: str | None, older_than: float | None, dry_run: bool, yes: bool
) -> None:
    """Cancel what is queued in a lane."""
    with session.client() as client:
        counted = client.operator.purge(model, tenant=tenant, older_than_seconds=older_than, dry_run=True)
        if dry_run:
            _tell_purge(session, counted)
            return
        if not yes:
            click.confirm(f"Cancel {counted.jobs} queued jobs of {model}?", abort=True, err=True)
        while True:
            purged = client.operator.purge(model, tenant=tenant, older_than_seconds=older_than)
            _tell_purge(session, purged)
            # Some may be another process's at this moment; they are not if nothing could be cancelled.
            if not purged.remaining or not purged.jobs:
                return


def _tell(session: Session, lane: Lane) -> None:
    if session.as_json:
        emit(lane)
        return
    bound = "" if lane.concurrency is None else f", at most {lane.concurrency} at once"
    click.echo(f"{lane.model}  {lane.mode}{bound}  {lane.depth} waiting, {lane.running} running")


def _tell_purge(session: Session, purge: Purge) -> None:
    if session.as_json:
        emit(purge)
        return
    what = "would be cancelled" if purge.dry_run else f"cancelled, {purge.remaining} left"
    click.echo(f"{purge.model}  {purge.jobs} {what}")


COMMANDS = (pause, resume, drain, set_lane, move, purge)
