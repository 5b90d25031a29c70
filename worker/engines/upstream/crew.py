"""The thread that waits for instances: requests, probes and leases, on one event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from threading import Event, Lock, Thread
from typing import TypeAlias

from worker.engines.base import Declined, Failed
from worker.engines.upstream.call import Caller
from worker.engines.upstream.desk import Desk, Member
from worker.engines.upstream.instance import Instance
from worker.engines.upstream.outcome import Chunk, Ending, Outcome, Vectors
from worker.engines.upstream.probe import well
from worker.engines.upstream.tenure import RENEW_S, Tenure

TICK_S = 0.1
"""How often to look who is to be asked how he is, and whose lease is over."""
IDLE_S = 5.0
"""An instance that was not heard for so long is asked."""
ENDING_S = 5.0
LEFT = Outcome(Ending.LAPSED, "we had to leave the server", over=False)
LEAVING_S = 0.5
"""So long is the end of a connection waited for; closing one takes much less."""

logger = logging.getLogger(__name__)

News: TypeAlias = Chunk | Vectors | Failed | Declined | None
"""What is new of a request; Vectors or None: it is answered."""


class Crew:
    """Carries out what ``desk`` decides, and ``tell``s what comes of it, from its own thread.

    ``lock`` is held around every use of the desk, here and elsewhere. ``total_s`` bounds one attempt at a request.
    """

    def __init__(
        self,
        desk: Desk,
        callers: Mapping[Instance, Caller],
        tenure: Tenure,
        lock: Lock,
        *,
        total_s: float,
        tell: Callable[[Member, News], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self._desk = desk
        self._callers = callers
        self._tenure = tenure
        self._lock = lock
        self._total_s = total_s
        self._tell = tell
        self._broken = broken
        self._calls: dict[Member, asyncio.Task[Outcome]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._run, name="upstreams", daemon=True)

    def start(self) -> None:
        """From now on instances are leased and asked how they are."""
        self._thread.start()

    def look(self) -> None:
        """There is something new at the desk. From any thread."""
        self._soon(self._place)

    def leave(self, member: Member) -> None:
        """Close the connection of a request that is forgotten, and return once that is done. From any other thread."""
        left = Event()

        def closing() -> None:
            call = self._calls.get(member)
            if call is None:
                left.set()
            else:
                call.add_done_callback(lambda _: left.set())
                call.cancel()

        self._soon(closing)
        left.wait(LEAVING_S)

    def close(self) -> None:
        """Leave what is under way, let others have the instances, and end the thread."""
        if self._thread.is_alive():
            self._soon(lambda: self._keep(self._end()))
            self._thread.join(ENDING_S)

    def _soon(self, do: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(do)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(self._unexpected)
        self._keep(self._renew())
        self._keep(self._tend())
        self._loop.run_forever()
        self._loop.close()

    def _unexpected(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        self._broken(error if isinstance(error, BaseException) else RuntimeError(str(context.get("message"))))

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._kept)

    def _kept(self, task: asyncio.Task[None]) -> None:
        self._others.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken(error)

    async def _renew(self) -> None:
        while True:
            note = await asyncio.to_thread(self._tenure.ask)
            if note is not None:
                with self._lock:
                    note()
            await asyncio.sleep(RENEW_S)

    async def _tend(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                asked = [each for each in self._desk.instances if each.wants_probe(now, IDLE_S)]
                for instance in asked:
                    instance.probing = True
                lapsed = [call for each in self._tenure.lapsed() for call in each.calls]
            for instance in asked:
                self._keep(self._probe(instance))
            for member, call in list(self._calls.items()):
                if member in lapsed:
                    call.cancel()
            self._place()
            await asyncio.sleep(TICK_S)

    async def _probe(self, instance: Instance) -> None:
        try:
            wrong = await well(self._callers[instance].client, instance.spec)
        finally:
            with self._lock:
                instance.probing = False
        with self._lock:
            news = instance.probed(time.monotonic(), wrong)
        if news:
            logger.info("%s: %s", instance.spec.url, wrong or "is well")
        self._place()

    def _place(self) -> None:
        with self._lock:
            now = time.monotonic()
            placed, verdicts = self._desk.place(now)
        for member, verdict in verdicts:
            self._tell(member, verdict)
        for member, instance in placed:
            left_s = max(0.0, self._total_s - (now - member.since))
            call = self._loop.create_task(self._call(member, instance, left_s))
            self._calls[member] = call
            # Not at the end of the task itself: one that is cancelled before it began never gets there.
            call.add_done_callback(partial(self._over, member, instance))

    async def _call(self, member: Member, instance: Instance, within_s: float) -> Outcome:
        def tell(chunk: Chunk) -> None:
            member.told = member.told or any(piece.text for piece in chunk.pieces)
            self._tell(member, chunk)

        return await self._callers[instance](member.request, within_s, tell)

    def _over(self, member: Member, instance: Instance, call: asyncio.Task[Outcome]) -> None:
        del self._calls[member]
        outcome = LEFT if call.cancelled() else call.result()
        with self._lock:
            asked = self._desk.has(member)
            verdict = self._desk.ended(member, instance, outcome, time.monotonic())
        if outcome.ending not in {Ending.DONE, Ending.REFUSED, Ending.BUSY} and asked:
            logger.log(
                logging.WARNING if outcome.ending is Ending.ASTRAY else logging.INFO,
                "%s: %s",
                instance.spec.url,
                outcome.said,
            )
        if verdict is not None:
            self._tell(*verdict)
        elif outcome.ending is Ending.DONE:
            self._tell(member, outcome.vectors)
        self._place()

    async def _end(self) -> None:
        current = asyncio.current_task()
        tasks = [*self._calls.values(), *(task for task in self._others if task is not current)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for caller in self._callers.values():
            await caller.client.aclose()
        await asyncio.to_thread(self._tenure.leave)
        self._loop.stop()
