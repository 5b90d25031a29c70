"""What operators do: `AsyncClient.operator` is these; `Client.operator` runs these."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from ktqueue.client.operator_values import Purge, Worker
from ktqueue.client.sending import Sender
from ktqueue.client.values import Lane
from ktqueue.client.wire import Request

JSON = {"Content-Type": "application/json"}


class OperatorOperations:
    """What a client may order of lanes, over any `Io`. Every process follows within about a second."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    async def workers(self) -> Sequence[Worker]:
        """The slots that live, by model and name."""
        return (await self._sender.call(Request("GET", "/api/v1/workers"))).values(Worker)

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


def _lane(model: str, action: str = "") -> str:
    return f"/api/v1/lanes/{quote(model, safe='')}{action}"
