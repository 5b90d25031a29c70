"""Which request goes to which instance, and what becomes of one that was not answered. No thread, no I/O.

Time is given in, in seconds; whoever shares a desk between threads locks it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ktqueue.cost import estimated_cost
from worker.engines.base import Declined, Failed, Request
from worker.engines.upstream.balance import choose
from worker.engines.upstream.instance import Instance
from worker.engines.upstream.outcome import Ending, Outcome

MOST_CALLS = 3
"""So many instances may fail a request within one attempt."""


@dataclass(eq=False)
class Member:
    """A request, from when it is taken in until it has ended; ``tokens`` is an estimate of all it may take."""

    request: Request
    tokens: int
    since: float
    told: bool = False
    """Whether anything of an answer was passed on: from then on it can't be begun anew unseen."""
    failures: int = 0
    largest_batch: int = 0
    tried: set[Instance] = field(default_factory=set)
    last: Outcome | None = None


Placed: TypeAlias = tuple[Member, Instance]
Verdict: TypeAlias = tuple[Member, Failed | Declined]


class Desk:
    """Requests come in, wait until an instance has a place for them, and go there."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self.instances = instances
        self._members: dict[str, Member] = {}
        self._waiting: deque[Member] = deque()
        self._most = sum(instance.concurrency for instance in instances)

    def capacity(self, now: float) -> int:
        """How many more requests would find a place now; as long as one waits, none."""
        if self._waiting:
            return 0
        places = sum(instance.likely(now) for instance in self.instances)
        return max(0, min(places, self._most - self.held))

    def add(self, request: Request, now: float) -> Member:
        """Take a request in; one of the same id is forgotten."""
        self.remove(request.id)
        member = Member(request, estimated_cost(request.task, request.input, request.params), now)
        self._members[request.id] = member
        self._waiting.append(member)
        return member

    def remove(self, job_id: str) -> Member | None:
        """Forget a request; the instance that has it is heard of by `ended`."""
        member = self._members.pop(job_id, None)
        if member is not None and member in self._waiting:
            self._waiting.remove(member)
        return member

    @property
    def held(self) -> int:
        """How many requests are here, or with an instance."""
        return len(self._members)

    def has(self, member: Member) -> bool:
        """Whether it is still to be answered."""
        return self._members.get(member.request.id) is member

    def place(self, now: float) -> tuple[list[Placed], list[Verdict]]:
        """Send on what finds a place, in the order in which it came, and give up what will find none."""
        placed: list[Placed] = []
        verdicts: list[Verdict] = []
        while self._waiting:
            member = self._waiting[0]
            instance, verdict = self._decide(member, now)
            if instance is None and verdict is None:
                break
            self._waiting.popleft()
            if verdict is not None:
                del self._members[member.request.id]
                verdicts.append((member, verdict))
            elif instance is not None:
                instance.calls[member] = member.tokens
                placed.append((member, instance))
        self._count_company()
        return placed, verdicts

    def ended(self, member: Member, instance: Instance, outcome: Outcome, now: float) -> Verdict | None:
        """A request to an instance is over. None: it was answered, is forgotten, or waits for another instance."""
        del instance.calls[member]
        instance.ended(outcome, now)
        if not self.has(member):
            return None
        if outcome.ending is Ending.DONE:
            del self._members[member.request.id]
            return None
        member.last = outcome
        member.tried.add(instance)
        member.failures += outcome.ending is Ending.BROKEN
        if outcome.ending is Ending.REFUSED or member.told or member.failures >= MOST_CALLS:
            del self._members[member.request.id]
            return member, _failed(member, outcome)
        self._waiting.appendleft(member)
        return None

    def _decide(self, member: Member, now: float) -> tuple[Instance | None, Failed | Declined | None]:
        """Where it goes, or that it goes nowhere; neither: it waits."""
        request, tokens = member.request, member.tokens
        able = [each for each in self.instances if each.serves(request, tokens)]
        if not able:
            error = self.instances[0].refusal(request, tokens)
            assert error is not None
            return None, Failed(request.id, error)
        usable = [each for each in able if each.usable(now)]
        if not usable:
            # What got through to an instance may be why that failed, so it is charged; what did not may wait.
            if member.failures and member.last is not None:
                return None, _failed(member, member.last)
            return None, Declined(request.id)
        fresh = [each for each in usable if each not in member.tried] or usable
        return choose((each for each in fresh if each.takes(tokens, now)), tokens), None

    def _count_company(self) -> None:
        """A request has shared its time with all that are under way now."""
        under_way = [member for each in self.instances for member in each.calls if isinstance(member, Member)]
        for member in under_way:
            member.largest_batch = max(member.largest_batch, len(under_way))


def _failed(member: Member, outcome: Outcome) -> Failed:
    return Failed(member.request.id, outcome.error(retryable=outcome.ending is not Ending.REFUSED))
