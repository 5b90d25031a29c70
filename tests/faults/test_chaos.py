"""A short run of ``make chaos``: kills, stops and a Redis that forgets, judged by what clients saw."""

from __future__ import annotations

from pathlib import Path

from tests.chaos import ours, trial
from tests.chaos.checker import check
from tests.chaos.nemesis import WEIGHTS
from tests.chaos.trial import Plan

SHORT = Plan(seed=65363, seconds=8.0, kills=6, kinds=tuple(WEIGHTS), clients=4, followers=2, pace=0.5)


def test_clients_see_every_promise_kept_while_processes_die(tmp_path: Path) -> None:
    with ours.embedded(tmp_path, lease_s=3.0, grace_s=3.0) as service:
        tried = trial.run(service, SHORT)
    assert check(tried.history) == []
    assert trial.kills(tried.history) >= SHORT.kills
    assert sum(job.state == "succeeded" for each in tried.history.operations for job in each.jobs) > 50
