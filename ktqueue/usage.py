"""What tenants used: jobs, tokens and device time, by tenant, model and UTC day. Values and their sums. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ktqueue.job import Job, JobState, Usage

DAY_MS = 86_400_000
STATES = tuple(state for state in JobState if state.terminal)
_PLACES = {state: place for place, state in enumerate(STATES)}
_PROMPT, _COMPLETION, _DEVICE = range(len(STATES), len(STATES) + 3)


@dataclass(frozen=True, slots=True)
class Use:
    """What jobs of one tenant and one model used that ended on one day, or in one transaction.

    ``device_seconds`` is the jobs' shares of the steps of their last attempts.
    """

    tenant: str
    model: str
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    device_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DayOfUse:
    """What was used on ``day``, in days since 1970-01-01 UTC."""

    day: int
    use: Use


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which days of use, the first and the last among them; only a tenant's, only a model's, if those are given."""

    first: int
    last: int
    tenant: str | None = None
    model: str | None = None
    limit: int = 1_000

    def matches(self, day: DayOfUse) -> bool:
        """Whether it is asked for."""
        use = day.use
        return (
            self.first <= day.day <= self.last and self.tenant in {None, use.tenant} and self.model in {None, use.model}
        )


class Bill:
    """Adds up what jobs used that end together."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[float]] = {}

    def add(self, tenant: str, model: str, state: JobState, usage: Usage | None, device_s: float) -> None:
        """A job ended in ``state``; its last attempt used this."""
        sums = self._sums.get((tenant, model))
        if sums is None:
            sums = self._sums[tenant, model] = [0] * len(STATES) + [0, 0, 0.0]
        sums[_PLACES[state]] += 1
        if usage is not None:
            sums[_PROMPT] += usage.prompt_tokens
            sums[_COMPLETION] += usage.completion_tokens
        sums[_DEVICE] += device_s

    def add_unheard(self, jobs: Iterable[Job], state: JobState) -> None:
        """Jobs were ended by decree: nobody told what they had used until then, so it is not billed."""
        for job in jobs:
            self.add(job.tenant, job.model, state, None, 0.0)

    def rows(self) -> list[tuple[Any, ...]]:
        """For each tenant and model the fields of a `Use`."""
        return [(*whose, *sums) for whose, sums in self._sums.items()]

    def uses(self) -> list[Use]:
        """One for each tenant and model, in their order."""
        return [Use(*row) for row in sorted(self.rows())]


def together(one: Use, other: Use) -> Use:
    """The sum of both; they are of the same tenant and model."""
    return Use(
        one.tenant,
        one.model,
        one.succeeded + other.succeeded,
        one.failed + other.failed,
        one.cancelled + other.cancelled,
        one.expired + other.expired,
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.device_seconds + other.device_seconds,
    )
