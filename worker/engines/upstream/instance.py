"""One instance: what it has of us now, and whether it may be given more. Time is given in, in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

from ktqueue.instance import ELSEWHERE
from ktqueue.instance import Instance as Told
from ktqueue.job import JobError, Task
from ktqueue.room import ANSWER_TOKENS, PROMPT_TOKENS, Room
from ktqueue.upstreams import Upstream
from worker.engines.base import Request
from worker.engines.upstream.breaker import Breaker, State
from worker.engines.upstream.kinds import DIALECTS, unknown
from worker.engines.upstream.outcome import Ending, Outcome

BUSY_S = 1.0
"""How long an instance is left alone that says it is busy and not for how long, or for no time at all."""
LONGEST_WAIT_S = 3600.0
ASTRAY_S = 30.0
"""How long one is left alone that does not take our key, or does not have the model."""


@dataclass(eq=False)
class Instance:
    """``spec`` of the catalogue, and what became of it. ``held_until`` is how long it is ours, by our own clock."""

    spec: Upstream
    rest_s: float
    """How long it is left alone after a request was left before its end, if it takes one at a time."""
    held_until: float = 0.0
    rests_until: float = 0.0
    heard_at: float = 0.0
    probing: bool = False
    calls: dict[object, int] = field(default_factory=dict)
    """What it has of us: whatever names it, and the tokens of each."""

    def __post_init__(self) -> None:
        """Nothing is known of it yet."""
        self.breaker = Breaker(self.spec.jobs)

    @property
    def room(self) -> Room:
        """What it holds at once."""
        tokens = self.spec.cache_lens
        return Room(self.spec.jobs) if tokens is None else Room(self.spec.jobs, tokens, 1)

    @property
    def concurrency(self) -> int:
        """Requests at once, however short."""
        return self.spec.jobs

    @property
    def one_at_a_time(self) -> bool:
        """Whether a second request would do harm."""
        return self.spec.jobs == 1

    @property
    def work(self) -> int:
        """Tokens of what it has of us."""
        return sum(self.calls.values())

    def serves(self, request: Request, tokens: int) -> bool:
        """Whether it could ever take a request of so many ``tokens``."""
        return self.refusal(request, tokens) is None

    def refusal(self, request: Request, tokens: int) -> JobError | None:
        """Why it can never take a request; None: it can."""
        if request.task is not Task.EMBED and (strange := unknown(DIALECTS[self.spec.kind], request.params)):
            return JobError("invalid_request", f"params.{strange[0]}: the server that runs this model does not know it")
        if self.spec.cache_lens is not None and tokens > self.spec.cache_lens:
            said = f"prompt and answer have about {tokens} tokens; the model holds {self.spec.cache_lens}"
            return JobError("context_length_exceeded", said)
        return None

    def held(self, now: float) -> bool:
        """Whether it is ours to use."""
        return now < self.held_until

    def usable(self, now: float) -> bool:
        """Whether it takes requests, though it may have as many as it can."""
        return self.held(now) and now >= self.rests_until and self.breaker.most > 0

    def places(self, now: float) -> int:
        """How many more requests it takes now."""
        if not self.usable(now) or (self.one_at_a_time and self.probing):
            return 0
        return max(0, self.breaker.most - len(self.calls))

    def likely(self, now: float) -> int:
        """How many more it takes if they are like those that it has; or, if it has none, of the usual size."""
        places = self.places(now)
        if self.spec.cache_lens is None or not places:
            return places
        each = self.work // len(self.calls) if self.calls else PROMPT_TOKENS + ANSWER_TOKENS
        free = (self.spec.cache_lens - self.work) // max(1, each)
        return min(places, free if self.calls else max(1, free))

    def takes(self, tokens: int, now: float) -> bool:
        """Whether it takes one more of so many tokens now."""
        fits = self.spec.cache_lens is None or self.work + tokens <= self.spec.cache_lens
        return fits and self.places(now) > 0

    def wants_probe(self, now: float, idle_s: float) -> bool:
        """Whether to ask how it is: one that fell ill when its time has come, any other when it was not heard for long.

        One that takes one at a time is not disturbed.
        """
        if self.probing or not self.held(now) or now < self.rests_until or (self.one_at_a_time and self.calls):
            return False
        return self.breaker.due(now) or (self.breaker.state is State.CLOSED and now - self.heard_at >= idle_s)

    def ended(self, outcome: Outcome, now: float) -> None:
        """Learn from how a request to it ended."""
        match outcome.ending:
            case Ending.DONE | Ending.REFUSED:
                self.heard_at = now
                self.breaker.succeeded()
            case Ending.BUSY:
                self.heard_at = now
                wait_s = min(outcome.wait_s or BUSY_S, LONGEST_WAIT_S)
                self.rests_until = max(self.rests_until, now + wait_s)
            case Ending.ASTRAY:
                self.breaker.open(now, at_least_s=ASTRAY_S)
            case Ending.GONE | Ending.BROKEN:
                self.breaker.failed(now, gone=outcome.ending is Ending.GONE)
            case Ending.LAPSED:
                pass
        if not outcome.over:
            self.left(now)

    def probed(self, now: float, wrong: str | None) -> bool:
        """Learn from how it said it is; whether that is news."""
        before = self.breaker.state
        self.breaker.probed(now, well=wrong is None)
        self.heard_at = now
        return (before is State.OPEN) != (self.breaker.state is State.OPEN)

    def left(self, now: float) -> None:
        """A request was left before its end. Who takes one at a time may go on with it, and nobody can tell."""
        if self.one_at_a_time:
            self.breaker.rest(now, self.rest_s)

    def as_told(self, now: float) -> Told:
        """As it is now, for people."""
        state: str = self.breaker.state
        until = self.rests_until
        if not self.held(now):
            state, until = ELSEWHERE, now
        elif now < self.rests_until:
            state = "resting"
        elif self.breaker.state is State.OPEN:
            until = self.breaker.until
        return Told(
            self.spec.url,
            self.spec.kind,
            self.room,
            running=len(self.calls),
            work=self.work,
            state=state,
            rests_s=round(until - now, 3) if until > now else None,
        )
