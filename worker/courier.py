"""The delivery loop: claim what is due, send it, settle, claim more, until nothing is due and nothing is under way.

One asyncio loop with many requests in flight; the database is asked in a thread beside it, so that no receiver's time
runs out because it was slow to answer us.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from ktqueue import __version__
from ktqueue.delivery import Deliveries, Dispatch
from ktqueue.errors import StoreUnavailable
from ktqueue.webhook import Answer
from worker.meter import DeliveryMeter, Unmetered

LOOK_S = 0.01
"""While requests are under way nobody hears a bell, so what has become due is looked for this often."""
LOOKING_SHARE = 0.2
"""The most of its time that goes into looking in vain: it takes a while where a thousand receivers fail."""
PAUSE_S = 0.2
"""Between tries while the database is away."""

logger = logging.getLogger(__name__)


class Sender(Protocol):
    """Who speaks HTTP."""

    async def send(self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float) -> Answer:
        """POST, and say what came of it; raises nothing that a receiver or the network could cause."""


class Signer(Protocol):
    """Who signs."""

    def signatures(self, event_id: str, timestamp: int, body: bytes, secrets: list[str]) -> str:
        """The value of ``webhook-signature``."""


class Courier:
    """Delivers. ``stopping`` is asked between steps, and ``grace_s`` bounds what follows.

    ``in_flight``: most requests at once. ``meter`` is told what came of them. Make it, and use it, in one thread.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        sender: Sender,
        signer: Signer,
        *,
        in_flight: int,
        timeout_s: float,
        grace_s: float,
        stopping: Callable[[], bool],
        meter: DeliveryMeter = Unmetered(),  # noqa: B008 - it has no state
        unix_time: Callable[[], float] = time.time,  # noqa: TID251 - a receiver compares it with its own clock
    ) -> None:
        self._deliveries = deliveries
        self._sender = sender
        self._signer = signer
        self._in_flight = in_flight
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._stopping = stopping
        self._meter = meter
        self._unix_time = unix_time
        # One loop for all drains: connections to receivers outlive them.
        self._loop = asyncio.new_event_loop()
        self._look_s = LOOK_S
        self._under_way: dict[asyncio.Task[Answer], Dispatch] = {}
        self._done: list[tuple[Dispatch, Answer]] = []

    def drain(self) -> int:
        """Deliver until nothing is due; how many requests were made. Raises StoreUnavailable while nothing is held."""
        return self._loop.run_until_complete(self._drain())

    def close(self) -> None:
        """Let go of the loop, between two drains; there can be no further one."""
        self._loop.close()

    async def _drain(self) -> int:
        token = uuid.uuid4().hex
        sent = 0
        stop_at: float | None = None
        while True:
            if stop_at is None and self._stopping():
                stop_at = self._loop.time() + self._grace_s
            if stop_at is None:
                sent += await self._claim(token)
            if not (self._under_way or self._done):
                return sent
            if stop_at is not None and self._loop.time() >= stop_at:
                await self._abandon()
                return sent
            await self._collect()
            await self._settle()

    async def _claim(self, token: str) -> int:
        """Begin what is due and has room; not while answers wait for the database."""
        room = self._in_flight - len(self._under_way)
        if self._done or room <= 0:
            return 0
        counts = Counter(dispatch.delivery.target for dispatch in self._under_way.values())
        began = self._loop.time()
        try:
            taken = await asyncio.to_thread(self._deliveries.claim, room, counts, token)
        except StoreUnavailable as error:
            if not self._under_way:
                raise
            logger.debug("nothing is claimed: %s", error)
            return 0
        self._look_s = LOOK_S if taken else max(LOOK_S, (self._loop.time() - began) / LOOKING_SHARE)
        for dispatch in taken:
            self._under_way[self._loop.create_task(self._send(dispatch))] = dispatch
        return len(taken)

    async def _send(self, dispatch: Dispatch) -> Answer:
        timestamp = int(self._unix_time())
        signatures = self._signer.signatures(dispatch.event_id, timestamp, dispatch.body, list(dispatch.secrets))
        headers = {
            "content-type": "application/json",
            "user-agent": f"ktqueue/{__version__}",
            "webhook-id": dispatch.event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures,
        }
        return await self._sender.send(dispatch.url, headers, dispatch.body, timeout_s=self._timeout_s)

    async def _collect(self) -> None:
        """Wait for an answer, or a little."""
        if not self._under_way:
            return
        ended, _ = await asyncio.wait(self._under_way, timeout=self._look_s, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            dispatch = self._under_way.pop(task)
            self._done.append((dispatch, self._answer(task, dispatch)))

    @staticmethod
    def _answer(task: asyncio.Task[Answer], dispatch: Dispatch) -> Answer:
        error = task.exception()
        if error is None:
            return task.result()
        # A fault of ours; this delivery waits for its next turn, and the others go on.
        logger.error("the delivery of %s failed here", dispatch.event_id, exc_info=error)
        return Answer(None, "internal_error", 0)

    async def _settle(self) -> None:
        """Commit what was answered. While the database is away it is kept, and tried again."""
        if not self._done:
            return
        try:
            await asyncio.to_thread(self._deliveries.settle, list(self._done))
        except StoreUnavailable as error:
            logger.debug("%d answers wait for the database: %s", len(self._done), error)
            await asyncio.sleep(PAUSE_S)
        else:
            self._meter.answered([answer for _, answer in self._done])
            self._done.clear()

    async def _abandon(self) -> None:
        """The grace is over: whoever comes next sends again what was not answered."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        logger.info("%d requests did not fit the grace", len(self._under_way))
        self._under_way.clear()
        await self._settle()
        self._done.clear()
        await asyncio.to_thread(self._deliveries.leave)
