"""An engine that does as it is told: each request says how many steps it takes and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ktqueue.job import JobError, JsonObject, Usage
from ktqueue.room import Room
from worker.engines.base import Cut, Declined, Delta, Failed, Finished, Output, Request, Vitals

ERRORS = {
    "permanent": JobError("bad_input", "this can never run", retryable=False),
    "retryable": JobError("busy", "try again", retryable=True),
}


class ToyEngine:
    """``params.steps`` (1) is how many steps a request takes, ``params.fail`` how it fails at its last.

    Each step but the last adds a letter to the text. ``at`` says what else happens, by the number of the step.
    Made with ``works=False`` it raises out of every step. ``crash`` is what ``fail`` = ``crash`` does.
    """

    def __init__(
        self,
        capacity: int = 4,
        *,
        at: Mapping[int, Callable[[], object]] | None = None,
        each_step: Callable[[], object] = lambda: None,
        works: bool = True,
        crash: Callable[[], object] = lambda: None,
    ) -> None:
        self._capacity = capacity
        self._at = at or {}
        self._each_step = each_step
        self._works = works
        self._crash = crash
        self._members: dict[str, tuple[Request, int, int]] = {}
        self.steps = 0
        self.largest = 0
        self.submitted: list[str] = []
        self.tenants: set[str] = set()
        self.cancelled: list[str] = []
        self._answers: dict[str, JsonObject] = {}

    def answer_with(self, job_id: str, result: JsonObject) -> None:
        """What a request's result shall be."""
        self._answers[job_id] = result

    @property
    def members(self) -> list[str]:
        """The ids in the batch."""
        return list(self._members)

    def capacity(self) -> int:
        """How many more requests it would take now."""
        return self._capacity - len(self._members)

    def room(self) -> Room:
        """As many requests as it was told."""
        return Room(self._capacity)

    def vitals(self) -> Vitals:
        """A token a step."""
        return Vitals(generated_tokens=self.steps)

    def submit(self, request: Request) -> None:
        """Take a request in."""
        assert self.capacity() > 0, "more than fits"
        assert request.id not in self._members, "twice the same request"
        self.submitted.append(request.id)
        self.tenants.add(request.tenant)
        self._members[request.id] = (request, 0, 0)
        self.largest = max(self.largest, len(self._members))

    def step(self) -> list[Output]:
        """One step for every member."""
        self.steps += 1
        self._at.get(self.steps, lambda: None)()
        self._each_step()
        if not self._works:
            raise RuntimeError("the device is lost")
        shared = len(self._members)
        return [self._advance(job_id, shared) for job_id in list(self._members)]

    def _advance(self, job_id: str, shared: int) -> Output:
        request, done, largest = self._members[job_id]
        done, largest = done + 1, max(largest, shared)
        if done < request.params.get("steps", 1):
            self._members[job_id] = (request, done, largest)
            return Delta(job_id, chr(96 + done), done - 1, done / request.params["steps"], done)
        del self._members[job_id]
        how = request.params.get("fail")
        if how == "decline":
            return Declined(job_id)
        if how == "crash":
            self._crash()
        elif how is not None:
            return Failed(job_id, ERRORS[how])
        text = "".join(chr(97 + number) for number in range(done - 1))
        result = self._answers.get(job_id, {"text": text, "finish_reason": "length"})
        return Finished(job_id, result, Usage(1, done), largest)

    def cancel(self, job_id: str) -> None:
        """Forget a request."""
        self.cancelled.append(job_id)
        self._members.pop(job_id, None)

    def cut(self, job_id: str) -> Cut:
        """End a request; its letters are kept."""
        _, done, largest = self._members[job_id]
        self.cancel(job_id)
        text = "".join(chr(97 + number) for number in range(done))
        return Cut(job_id, {"text": text, "finish_reason": "deadline"}, Usage(1, done), largest)
