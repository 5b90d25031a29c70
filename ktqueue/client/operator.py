"""What operators do: `AsyncClient.operator` is these; `Client.operator` runs these."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from typing import Any
from urllib.parse import quote

from ktqueue.client.operator_values import Purge, Roster, UsageDay, Worker
from ktqueue.client.sending import Sender
from ktqueue.client.values import Lane
from ktqueue.client.wire import Request

JSON = {"Content-Type": "application/json"}
USAGE = "/api/v1/usage"


class OperatorOperations:
    """What a client may order of lanes, over any `Io`. Every process follows within about a second."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    async def workers(self) -> Sequence[Worker]:
        """The slots that live, by model and name."""
        return (await self._sender.call(Request("GET", "/api/v1/workers"))).values(Worker)

    async def rosters(self) -> Sequence[Roster]:
        """The workers that live, and the models that each is to serve."""
        return (await self._sender.call(Request("GET", "/api/v1/rosters"))).values(Roster)

    async def move(self, model: str, *, source: str | None = None, target: str | None = None) -> Lane:
        """Have one worker serve a model no more, another serve it, or both. Raises InvalidRequest, NotFound."""
        given = {
            name: worker for name, worker in (("from_worker", source), ("to_worker", target)) if worker is not None
        }
        request = Request("POST", _lane(model, "/move"), headers=JSON, body=_json(given))
        return (await self._sender.call(request)).value(Lane)

    async def usage(
        self,
        *,
        first: date | None = None,
        last: date | None = None,
        tenant: str | None = None,
        model: str | None = None,
    ) -> Sequence[UsageDay]:
        """What was used, by day (UTC), tenant and model; without days, of the last 30. Raises InvalidRequest."""
        return (await self._sender.call(Request("GET", USAGE, query=_range(first, last, tenant, model)))).values(
            UsageDay
        )

    async def usage_csv(
        self,
        *,
        first: date | None = None,
        last: date | None = None,
        tenant: str | None = None,
        model: str | None = None,
    ) -> str:
        """The same as a table, its first line with the names of the columns."""
        asked = Request("GET", USAGE, query=_range(first, last, tenant, model), headers={"Accept": "text/csv"})
        return (await self._sender.call(asked)).body.decode()

    async def lane(self, model: str) -> Lane:
        """The lane of a model. Raises NotFound."""
        return (await self._sender.call(Request("GET", _lane(model)))).value(Lane)

    async def pause(self, model: str) -> Lane:
        """Have a lane take jobs and keep them; what runs goes on. Raises NotFound."""
        return await self._order(model, "pause")

    async def resume(self, model: str) -> Lane:
        """Have a lane take jobs and run them again. Raises NotFound."""
        return await self._order(model, "resume")

    async def drain(self, model: str) -> Lane:
        """Have a lane take no new jobs, and run those that it has. Raises NotFound."""
        return await self._order(model, "drain")

    async def bound(self, model: str, concurrency: int | None) -> Lane:
        """Let at most so many jobs of a lane run at once, over all its slots; None: as many as fit. Raises NotFound."""
        request = Request("PATCH", _lane(model), headers=JSON, body=_json({"concurrency": concurrency}))
        return (await self._sender.call(request)).value(Lane)

    async def purge(
        self,
        model: str,
        *,
        tenant: str | None = None,
        older_than_seconds: float | None = None,
        dry_run: bool = False,
    ) -> Purge:
        """Cancel what is queued in a lane, for some seconds at most: ask again while ``remaining`` is not 0.

        Only a tenant's, only what was created so long ago, if those are given; with ``dry_run`` it is only counted.
        Raises NotFound.
        """
        asked = {"dry_run": dry_run, "tenant": tenant, "older_than_seconds": older_than_seconds}
        given = {name: value for name, value in asked.items() if value is not None}
        request = Request("POST", _lane(model, "/purge"), headers=JSON, body=_json(given))
        return (await self._sender.call(request)).value(Purge)

    async def _order(self, model: str, action: str) -> Lane:
        return (await self._sender.call(Request("POST", _lane(model, f"/{action}")))).value(Lane)


def _json(document: Any) -> bytes:
    return json.dumps(document, allow_nan=False).encode()


def _range(first: date | None, last: date | None, tenant: str | None, model: str | None) -> Sequence[tuple[str, str]]:
    asked = {
        "from": None if first is None else first.isoformat(),
        "to": None if last is None else last.isoformat(),
        "tenant": tenant,
        "model": model,
    }
    return [(name, value) for name, value in asked.items() if value is not None]


def _lane(model: str, action: str = "") -> str:
    return f"/api/v1/lanes/{quote(model, safe='')}{action}"
