"""The engine that has its requests computed by somebody else's servers."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from threading import Lock

from ktqueue.instance import Instance as Told
from ktqueue.job import Task
from ktqueue.room import Room
from worker.engines.base import Cut, Declined, Failed, Finished, Output, Request, Vitals
from worker.engines.upstream.answer import Answer, embeddings
from worker.engines.upstream.crew import Crew, News
from worker.engines.upstream.desk import Desk, Member
from worker.engines.upstream.outcome import Chunk, Vectors

WAIT_S = 0.02
"""A step waits at most so long for something new: whoever drains us wants to look around, and not to spin."""


class UpstreamEngine:
    """Implements `Engine` and `Relay`; see there. ``hire`` makes the crew that carries out what the desk decides."""

    def __init__(
        self,
        desk: Desk,
        lock: Lock,
        hire: Callable[[Callable[[Member, News], None], Callable[[BaseException], None]], Crew],
    ) -> None:
        self._desk = desk
        self._lock = lock
        self._news: queue.SimpleQueue[tuple[Member, News] | BaseException] = queue.SimpleQueue()
        self._members: dict[str, tuple[Member, Answer | None]] = {}
        self._vitals = Vitals()
        self._crew = hire(lambda member, news: self._news.put((member, news)), self._news.put)
        self._crew.start()

    def capacity(self) -> int:
        """How many more requests it would take now; 0 while no instance may be given any."""
        with self._lock:
            return self._desk.capacity(time.monotonic())

    def room(self) -> Room:
        """All that its instances hold."""
        rooms = tuple(each.room for each in self._desk.instances)
        return Room(sum(room.jobs for room in rooms), parts=rooms)

    def vitals(self) -> Vitals:
        """The tokens of what was answered, as its instances count them."""
        return self._vitals

    def submit(self, request: Request) -> None:
        """Take a request in. An id that is in the engine already is forgotten first: the newer one counts."""
        self.cancel(request.id)
        with self._lock:
            member = self._desk.add(request, time.monotonic())
        self._members[request.id] = (member, None if request.task is Task.EMBED else Answer(request))
        self._crew.look()

    def step(self) -> list[Output]:
        """Tell what has come in; if that is nothing, wait a moment for it."""
        outputs: list[Output] = []
        wait = bool(self._members)
        while True:
            try:
                news = self._news.get(timeout=WAIT_S) if wait else self._news.get_nowait()
            except queue.Empty:
                return outputs
            if isinstance(news, BaseException):
                raise news
            new = self._outputs(*news)
            self._count(new)
            outputs += new
            wait = wait and not outputs

    def cancel(self, job_id: str) -> None:
        """Forget a request and close its connection; unknown ids are ignored."""
        if self._members.pop(job_id, None) is None:
            return
        with self._lock:
            member = self._desk.remove(job_id)
        if member is not None:
            self._crew.leave(member)

    def cut(self, job_id: str) -> Cut:
        """End a request; the text that it has come to is kept."""
        member, answer = self._members.get(job_id, (None, None))
        self.cancel(job_id)
        return Cut(job_id) if member is None or answer is None else answer.cut(member.largest_batch)

    def instances(self) -> tuple[Told, ...]:
        """The instances as they are now."""
        with self._lock:
            now = time.monotonic()
            return tuple(each.as_told(now) for each in self._desk.instances)

    def close(self) -> None:
        """Leave what is under way, and let others have the instances."""
        self._crew.close()

    def _count(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Finished) and output.usage is not None:
                before, usage = self._vitals, output.usage
                self._vitals = Vitals(
                    prompt_tokens=before.prompt_tokens + usage.prompt_tokens,
                    generated_tokens=before.generated_tokens + usage.completion_tokens,
                )

    def _outputs(self, member: Member, news: News) -> list[Output]:
        """What to tell of a request, unless it was forgotten meanwhile."""
        job_id = member.request.id
        held, answer = self._members.get(job_id, (None, None))
        if held is not member:
            return []
        if answer is not None and isinstance(news, Chunk):
            return answer.take(news)
        del self._members[job_id]
        match news:
            case Failed() | Declined():
                return [news]
            case Vectors():
                return [embeddings(member.request, news, member.largest_batch)]
            case _:
                assert answer is not None
                return [answer.finish(member.largest_batch)]
