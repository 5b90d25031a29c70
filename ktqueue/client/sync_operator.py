"""The operator's part of the synchronous client: each method runs the operation of the same name to its end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from ktqueue.client.operator import OperatorOperations
from ktqueue.client.operator_values import Purge, Roster, UsageDay, Worker
from ktqueue.client.values import Lane
from ktqueue.client.wire import run


class SyncOperator:
    """What a blocking client may order of lanes; `OperatorOperations` says more of each method."""

    def __init__(self, operations: OperatorOperations) -> None:
        self._operations = operations

    def workers(self) -> Sequence[Worker]:
        """The slots that live, by model and name."""
        return run(self._operations.workers())

    def rosters(self) -> Sequence[Roster]:
        """The workers that live, and the models that each is to serve."""
        return run(self._operations.rosters())

    def move(self, model: str, *, source: str | None = None, target: str | None = None) -> Lane:
        """Have one worker serve a model no more, another serve it, or both. Raises InvalidRequest, NotFound."""
        return run(self._operations.move(model, source=source, target=target))

    def usage(
        self,
        *,
        first: date | None = None,
        last: date | None = None,
        tenant: str | None = None,
        model: str | None = None,
    ) -> Sequence[UsageDay]:
        """What was used, by day (UTC), tenant and model; without days, of the last 30. Raises InvalidRequest."""
        return run(self._operations.usage(first=first, last=last, tenant=tenant, model=model))

    def usage_csv(
        self,
        *,
        first: date | None = None,
        last: date | None = None,
        tenant: str | None = None,
        model: str | None = None,
    ) -> str:
        """The same as a table, its first line with the names of the columns."""
        return run(self._operations.usage_csv(first=first, last=last, tenant=tenant, model=model))

    def lane(self, model: str) -> Lane:
        """The lane of a model. Raises NotFound."""
        return run(self._operations.lane(model))

    def pause(self, model: str) -> Lane:
        """Have a lane take jobs and keep them; what runs goes on. Raises NotFound."""
        return run(self._operations.pause(model))

    def resume(self, model: str) -> Lane:
        """Have a lane take jobs and run them again. Raises NotFound."""
        return run(self._operations.resume(model))

    def drain(self, model: str) -> Lane:
        """Have a lane take no new jobs, and run those that it has. Raises NotFound."""
        return run(self._operations.drain(model))

    def bound(self, model: str, concurrency: int | None) -> Lane:
        """Let at most so many jobs of a lane run at once, over all its slots; None: as many as fit. Raises NotFound."""
        return run(self._operations.bound(model, concurrency))

    def purge(
        self,
        model: str,
        *,
        tenant: str | None = None,
        older_than_seconds: float | None = None,
        dry_run: bool = False,
    ) -> Purge:
        """Cancel what is queued in a lane, for some seconds at most: ask again while ``remaining`` is not 0."""
        return run(self._operations.purge(model, tenant=tenant, older_than_seconds=older_than_seconds, dry_run=dry_run))
