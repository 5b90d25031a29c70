"""Commands about jobs that have been submitted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

import click

from ktqueue.cli.app import Session, Unsuccessful, session
from ktqueue.cli.numbers import COUNT
from ktqueue.cli.pairs import METADATA
from ktqueue.cli.show import counted, duration, emit, facts, outcome_of, table
from ktqueue.job import JobState

if TYPE_CHECKING:
    from ktqueue.client import Client, Job, ReceiptAttempt

IDS = click.argument("ids", nargs=-1, required=True, metavar="ID...")
RECEIPT = ("claim", "outcome", "waited", "ran", "device s", "steps", "jobs in a step", "worker")
TIMEOUT = click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait; left out: for ever.")


@click.command()
@IDS
@session
def get(session: Session, ids: Sequence[str]) -> None:
    """Show jobs as they are now."""
    with session.client() as client:
        for number, job_id in enumerate(ids):
            job = client.get(job_id)
            if session.as_json:
                emit(job)
                continue
            click.echo("\n" if number else "", nl=False)
            facts(job)


@click.command()
@click.argument("job_id", metavar="ID")
@session
def receipt(session: Session, job_id: str) -> None:
    """Show what a job took, attempt by attempt: its wait, its run, and its share of the model's steps."""
    with session.client() as client:
        told = client.receipt(job_id)
    if session.as_json:
        emit(told)
        return
    table(RECEIPT, map(_leg, told.attempts))
    click.echo(
        f"{told.state}: waited {duration(told.queued_ms)}, ran {duration(told.run_ms)},"
        f" {told.device_seconds:.3f} s of the device"
    )


def _leg(leg: ReceiptAttempt) -> tuple[object, ...]:
    batch, device_s = leg.batch, leg.device_seconds
    return (
        leg.claim,
        leg.outcome,
        duration(leg.queued_ms),
        duration(leg.run_ms),
        None if device_s is None else f"{device_s:.3f}",
        leg.steps,
        None if batch is None else f"{batch.smallest} to {batch.largest}, {batch.mean:.1f} on average",
        leg.worker,
    )


@click.command()
@IDS
@TIMEOUT
@session
def wait(session: Session, ids: Sequence[str], timeout: float | None) -> None:
    """Wait until jobs have ended, and say how; exits 1 unless all succeeded."""
    with session.client() as client:
        finish(client, ids, timeout, as_json=session.as_json)


def finish(client: Client, ids: Sequence[str], timeout: float | None, *, as_json: bool) -> None:
    """Print each job as it ends. Raises Unsuccessful unless all succeeded."""
    jobs: Iterable[Job]
    # One job is held on to by a long poll, which is quicker; many are looked at in rounds.
    jobs = [client.wait(ids[0], timeout)] if len(ids) == 1 else counted(client.as_completed(ids, timeout), len(ids))
    unhappy = 0
    for job in jobs:
        if as_json:
            emit(job)
        else:
            click.echo(outcome_of(job))
        unhappy += job.state is not JobState.SUCCEEDED
    if unhappy:
        raise Unsuccessful(f"{unhappy} of {len(ids)} jobs did not succeed")


@click.command(name="list")
@click.option("--state", "states", multiple=True, type=click.Choice([state.value for state in JobState]))
@click.option("--model", help="Only this model's.")
@METADATA
@click.option("--limit", type=COUNT, default=20, show_default=True, help="Most jobs to show.")
@session
def list_jobs(session: Session, states: Sequence[str], model: str | None, metadata: dict[str, str], limit: int) -> None:
    """List jobs, newest first."""
    with session.client() as client:
        found = islice(client.list(states=states, model=model, metadata=metadata), limit)
        if session.as_json:
            for job in found:
                emit(job)
            return
        table(("id", "model", "state", "age", "ran"), map(_row, found))


def _row(job: Job) -> tuple[object, ...]:
    age = datetime.now(UTC) - job.created_at  # noqa: TID251 - for a person to read
    return (job.id, job.model, job.state, duration(age.total_seconds() * 1000), duration(job.timing.run_ms))


@click.command()
@IDS
@session
def cancel(session: Session, ids: Sequence[str]) -> None:
    """Cancel jobs that have not ended."""
    with session.client() as client:
        for job_id in ids:
            job = client.cancel(job_id)
            if session.as_json:
                emit(job)
            else:
                click.echo(outcome_of(job))


COMMANDS = (get, receipt, wait, list_jobs, cancel)
