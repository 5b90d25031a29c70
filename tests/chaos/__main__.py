"""``python -m tests.chaos``: torment a real stack, check what its clients saw, and report."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TypeAlias

import click

from tests.chaos import ours, report, theirs, trial
from tests.chaos.nemesis import WEIGHTS
from tests.chaos.report import Verdict
from tests.chaos.services import Service
from tests.chaos.trial import Plan, Trial

Arranged: TypeAlias = Callable[..., AbstractContextManager[Service]]
LEASE_S, GRACE_S = 8.0, 5.0
"""Those that a service has when nobody sets any."""


def chosen(only: str) -> tuple[str, ...]:
    """The kinds of faults that ``only`` names, whole or by their first words: ``stop,kill child``."""
    words = {word.strip() for word in only.split(",") if word.strip()}
    kinds = tuple(kind for kind in WEIGHTS if not words or any(f"{kind} ".startswith(f"{word} ") for word in words))
    if not kinds:
        raise click.BadParameter(f"there are: {', '.join(WEIGHTS)}", param_hint="--only")
    return kinds


@click.command()
@click.option("--seconds", default=120.0, show_default=True, help="At least so long.")
@click.option("--kills", default=0, help="And until so many SIGKILLs of workers and their children.")
@click.option("--sender-kills", default=0, help="And until so many SIGKILLs of senders of webhooks.")
@click.option("--seed", default=7, show_default=True, help="Makes schedule and orders, not how they interleave.")
@click.option("--only", default="", help="Only these faults: 'kill', 'kill child', 'stop', 'flushall', ….")
@click.option("--parked", default=0, help="Jobs that wait all the time in a lane that does not move.")
@click.option("--postgres", is_flag=True, help="On PostgreSQL, with a second worker that can be cut off.")
@click.option("--baseline", is_flag=True, help="Afterwards the same to plain Flask + Celery.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the report, the histories and the logs.")
def main(
    seconds: float,
    kills: int,
    seed: int,
    only: str,
    parked: int,
    *,
    sender_kills: int,
    postgres: bool,
    baseline: bool,
    out: Path | None,
) -> None:
    """Torment a stack of its own; the exit status is 1 if any of its promises was broken."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = Plan(seed, seconds, kills, chosen(only), parked=parked, sender_kills=sender_kills)
    where = out or Path(mkdtemp(prefix="ktq-chaos-"))
    where.mkdir(parents=True, exist_ok=True)
    trials = [tried(where, plan, ours.distributed if postgres else ours.embedded)]
    if baseline:
        trials.append(tried(where, replace(plan, parked=0), theirs.baseline))
    verdicts = tell(where, trials)
    sys.exit(1 if verdicts[0].violations else 0)


def tried(where: Path, plan: Plan, arranged: Arranged) -> Trial:
    """The trial of one service; its log goes to ``where``, whatever comes of it."""
    with TemporaryDirectory(prefix="ktq-chaos-") as home:
        try:
            with arranged(Path(home), lease_s=LEASE_S, grace_s=GRACE_S) as service:
                return trial.run(service, plan)
        finally:
            log = Path(home) / "home.log"
            if log.exists():
                shutil.copyfile(log, where / f"{arranged.__name__}.log")


def tell(where: Path, trials: Sequence[Trial]) -> list[Verdict]:
    """Print the report and write it, with the histories beside it."""
    verdicts = [Verdict(each) for each in trials]
    told = "\n\n".join([report.table(verdicts), *(report.details(verdict) for verdict in verdicts)])
    click.echo(f"{told}\n\nThe report, the histories and the logs: {where}")
    (where / "report.md").write_text(told + "\n", encoding="utf-8")
    for each in trials:
        each.history.save(where / each.name.replace(" ", "-"))
    return verdicts


if __name__ == "__main__":
    main()
