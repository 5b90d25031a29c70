"""An engine runs a batch. The drain loop calls it, it calls nobody.

One that computes has no thread, no I/O and no clock of its own. One that passes requests on to other servers has
nothing to do but to wait for them, which it does in a thread of its own: see `Relay`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from ktqueue.instance import Instance
from ktqueue.job import JobError, JsonObject, Task, Usage
from ktqueue.room import Room
from ktqueue.tenant import DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class Request:
    """One job as an engine sees it; ``input`` and ``params`` were validated when it was submitted.

    What one tenant's requests leave behind in the engine, another's must not be answered sooner by.
    """

    id: str
    task: Task
    input: JsonObject
    params: JsonObject
    tenant: str = DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of one of a request's choices: ``offset`` characters of it were given before. ``progress`` is 0.0-1.0.

    ``told`` is how many characters of all choices together have been given with this: it only grows.
    """

    id: str
    text: str
    offset: int
    progress: float
    told: int
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` items of one request are ready; there is more to come."""

    id: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The request is done. ``largest_batch``: the most requests that shared one of its steps."""

    id: str
    result: JsonObject
    usage: Usage | None
    largest_batch: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The request is over without a result; its batch-mates go on."""

    id: str
    error: JobError


@dataclass(frozen=True, slots=True)
class Declined:
    """The request can't be run for now, which is no fault of its own: it goes back where it waited."""

    id: str


@dataclass(frozen=True, slots=True)
class Cut:
    """The request was ended before it was done: what there is of its result."""

    id: str
    result: JsonObject | None = None
    usage: Usage | None = None
    largest_batch: int | None = None


Output: TypeAlias = Delta | Progress | Finished | Failed | Declined


@dataclass(frozen=True, slots=True)
class Vitals:
    """What an engine has done since it was made, and what of its cache is in use.

    Tokens: of prompts, generated, and added to make rows equally long; drafted, and accepted of those. ``preemptions``
    counts requests that had to give up their place in the cache. One with a cache has ``blocks``, of which some are
    ``blocks_used``.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    padding_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    blocks: int = 0
    blocks_used: int = 0


class Engine(Protocol):
    """Every submitted request gets exactly one Finished, Failed or Declined from a later ``step``, unless cancelled."""

    def capacity(self) -> int:
        """How many more requests it would take now; 0 while it is full."""

    def room(self) -> Room:
        """How much it holds when nothing is in it."""

    def vitals(self) -> Vitals:
        """How it does. May be asked from another thread."""

    def submit(self, request: Request) -> None:
        """Take a request in. One that can never run is answered with Failed by the next step."""

    def step(self) -> list[Output]:
        """One bounded piece of work for the batch as it is now; [] when there is nothing to do.

        May raise only when the engine itself is broken: then everything submitted is lost and it must be
        replaced.
        """

    def cancel(self, job_id: str) -> None:
        """Forget a request, free its place now; nothing more is said of it. Unknown ids are ignored."""

    def cut(self, job_id: str) -> Cut:
        """As `cancel`, for the sake of a deadline: what there is of the result so far is worth having."""


@runtime_checkable
class Relay(Protocol):
    """What an engine has besides that passes its requests on to other servers."""

    def instances(self) -> tuple[Instance, ...]:
        """The servers as they are now; may be asked from another thread."""

    def close(self) -> None:
        """End in good order: leave what is under way, and let others use the servers at once."""
