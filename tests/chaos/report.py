"""What is told at the end: one table, a column a service, and every violation with its evidence."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence

from tests.chaos.checker import check, innocent_failures
from tests.chaos.history import Action, Operation
from tests.chaos.known import ACCEPTED, Known, Violation
from tests.chaos.nemesis import SENDER_KILLS, WORKER_KILLS
from tests.chaos.trial import Trial, kills, sender_kills

SHOWN = 20
"""Violations told in full; all are counted."""


class Verdict:
    """A trial, and what the checker says of it."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self._known = Known(trial.history)
        self.violations = check(trial.history)
        self.innocent = innocent_failures(trial.history)

    @property
    def actions(self) -> list[Action]:
        return self.trial.history.actions

    def count(self, rule: str) -> int:
        """How many violations there are of one rule."""
        return sum(violation.rule == rule for violation in self.violations)

    def measured(self, name: str, kinds: Sequence[str]) -> list[float]:
        """One measure of all actions of some kinds."""
        return [action.measured[name] for action in self.actions if action.kind in kinds and name in action.measured]

    def was_to_fail(self, job_id: str) -> bool:
        """Whether it was ordered to fail, so that it goes back into its lane all by itself."""
        order = self._known.order_of(job_id)
        return order is not None and order.fail is not None

    def submits(self) -> Counter[str]:
        """Submits by what came back."""
        submits = [each for each in self.trial.history.operations if each.kind == "submit"]
        return Counter(
            "2xx" if each.status in ACCEPTED else "no answer" if each.status is None else str(each.status)
            for each in submits
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _recovery(verdict: Verdict) -> str:
    times = verdict.measured("recovery", tuple(WORKER_KILLS))
    if not times:
        return "not measured"
    held = [each for each in verdict.measured("held", tuple(WORKER_KILLS)) if each]
    spread = f"{statistics.median(times):.2f} / {percentile(times, 0.99):.2f} / {max(times):.2f} s"
    return f"{spread} ({len(times)} of {len(held)} kills that hit jobs)"


def _kills(verdict: Verdict) -> str:
    counted = Counter(action.kind for action in verdict.actions)
    return ", ".join(f"{kind} {number}" for kind, number in sorted(counted.items()))


def _webhooks(verdict: Verdict) -> str:
    arrivals = verdict.trial.history.arrivals
    taken = [(each.receiver, each.event_id) for each in arrivals if each.taken]
    events, lost = len(set(taken)), verdict.count("webhook lost")
    return f"{events}, {len(taken) - events} arrivals more than once, {len(arrivals) - len(taken)} refused, {lost} lost"


def _sender_kills(verdict: Verdict) -> str:
    carried = [each for each in verdict.measured("carried", tuple(SENDER_KILLS)) if each]
    return f"{sender_kills(verdict.trial.history)}, {len(carried)} of them with {sum(carried):.0f} deliveries in hand"


def _stops(verdict: Verdict) -> str:
    held, taken = (verdict.measured(name, ("stop child", "stop worker")) for name in ("held", "taken over"))
    return f"{len(held)}, with {sum(held):.0f} jobs in hand, {sum(taken):.0f} of them taken over meanwhile"


def _terms(verdict: Verdict) -> str:
    exits = verdict.measured("exit", ("term worker", "term deliver"))
    if not exits:
        return "none"
    held = verdict.measured("held", ("term worker", "term deliver"))
    back = [job_id for action in verdict.actions for job_id in action.undone if not verdict.was_to_fail(job_id)]
    return (
        f"{len(exits)}, most held {max(held, default=0):.0f}, given back {len(back)}, longest exit {max(exits):.1f} s"
    )


def _submits(verdict: Verdict) -> str:
    return ", ".join(f"{what} {number}" for what, number in sorted(verdict.submits().items()))


def _memory(verdict: Verdict) -> str:
    before, after = verdict.trial.before_mb, verdict.trial.after_mb
    return ", ".join(f"{role} {before[role]:.0f} → {after.get(role, 0.0):.0f}" for role in before)


def _rules(verdict: Verdict) -> str:
    counted = Counter(violation.rule for violation in verdict.violations)
    return ", ".join(f"{rule} {number}" for rule, number in sorted(counted.items())) or "none"


ROWS: Sequence[tuple[str, Callable[[Verdict], str]]] = (
    ("seed", lambda verdict: str(verdict.trial.plan.seed)),
    ("seconds", lambda verdict: f"{verdict.trial.seconds:.0f}"),
    ("operations", lambda verdict: str(len(verdict.trial.history.operations))),
    ("submits", _submits),
    ("jobs accepted", lambda verdict: str(len({each.job_id for each in _accepted(verdict)}))),
    ("faults", _kills),
    ("kills of workers and their children", lambda verdict: str(kills(verdict.trial.history))),
    ("kills of senders and their parents", _sender_kills),
    ("events delivered", _webhooks),
    ("accepted and lost", lambda verdict: str(verdict.count("lost") + verdict.count("vanished"))),
    ("violations by rule", _rules),
    ("innocent jobs that failed", lambda verdict: str(len(verdict.innocent))),
    ("recovery of a kill, median / p99 / max (bar: 3 / 10 s)", _recovery),
    ("frozen past the lease", _stops),
    ("SIGTERM", _terms),
    ("memory before → after, MB", _memory),
)


def _accepted(verdict: Verdict) -> list[Operation]:
    return [each for each in verdict.trial.history.operations if each.kind == "submit" and each.status in ACCEPTED]


def table(verdicts: Sequence[Verdict]) -> str:
    """Markdown."""
    lines = [
        "| | " + " | ".join(verdict.trial.name for verdict in verdicts) + " |",
        "|---" * (1 + len(verdicts)) + "|",
    ]
    lines += [f"| {name} | " + " | ".join(tell(verdict) for verdict in verdicts) + " |" for name, tell in ROWS]
    return "\n".join(lines)


def details(verdict: Verdict) -> str:
    """The first violations, and the innocent."""
    lines = [_line(violation) for violation in verdict.violations[:SHOWN]]
    if len(verdict.violations) > SHOWN:
        lines.append(f"- … and {len(verdict.violations) - SHOWN} more")
    lines += [f"- innocent: {job_id}" for job_id in verdict.innocent[:SHOWN]]
    return "\n".join([f"{verdict.trial.name}:", *lines]) if lines else f"{verdict.trial.name}: no violation"


def _line(violation: Violation) -> str:
    return f"- {violation.rule}: {violation.job}: {violation.evidence}"
