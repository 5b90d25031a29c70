"""The causal engine: a batch that requests join and leave between any two tokens."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ktqueue.chances import too_many_chances
from ktqueue.job import JobError
from ktqueue.room import Room
from worker.engines.base import Cut, Failed, Output, Request, Vitals
from worker.engines.causal.answer import Answer
from worker.engines.causal.chances import Chances
from worker.engines.causal.drafts import Drafts
from worker.engines.causal.executor import Executor
from worker.engines.causal.flight import Flight, Landed
from worker.engines.causal.prompt import PromptReader
from worker.engines.causal.sampler import Entry, Features, features_of
from worker.engines.causal.sampling import Sampling, largest_token, sampling_of
from worker.engines.causal.scheduler import Place, Plan, Row, Scheduler, Sequence
from worker.engines.causal.uniform import stream_of
from worker.engines.causal.voice import Voice
from worker.engines.trouble import Refused, blame, is_fatal, not_finite

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Member(Sequence):
    """One choice of a request: ``prompt`` tokens, and what follows them with its own random numbers."""

    job_id: str
    choice: int
    prompt: int
    sampling: Sampling
    seed: int


class CausalEngine:
    """Each step runs the scheduler's plan. So many as ``ahead`` are launched before the tokens of one are read.

    A device that computes while nobody waits for it is busy all the time; the price is that a sequence which ends by
    what it draws is found out one token late, and that token is thrown away. A device that is not ahead may have up to
    ``drafts`` tokens of each sequence drafted, and those computed along that are likely.

    A step that fails takes nobody down that it need not: what its members are is their tokens, so they are computed
    again, fewer at a time, until the one that can't be run is alone.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        prompts: PromptReader,
        voice: Voice,
        *,
        room: Room,
        vocabulary: int,
        ahead: int,
        drafts: int = 0,
        draw_seed: Callable[[], int] = lambda: random.getrandbits(63),
    ) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._prompts = prompts
        self._voice = voice
        self._room = room
        self._vocabulary = vocabulary
        self._ahead = ahead
        self._drafts = drafts
        self._draw_seed = draw_seed
        self._members: dict[str, list[Member]] = {}
        self._answers: dict[str, Answer] = {}
        self._flights: deque[tuple[Plan, Flight]] = deque()
        self._ended: list[Output] = []
        self._read = 0
        self._drawn = 0
        self._drafted = 0
        self._accepted = 0

    def capacity(self) -> int:
        """How many more requests it would take now."""
        return max(0, self._room.jobs - len(self._members))

    def room(self) -> Room:
        """How many it takes at once, and how many tokens of all of them."""
        return self._room

    def vitals(self) -> Vitals:
        """The tokens that came in and went out, and the blocks of its cache; its rows need no padding."""
        blocks = self._scheduler.blocks
        return Vitals(
            prompt_tokens=self._read,
            generated_tokens=self._drawn,
            draft_tokens=self._drafted,
            accepted_tokens=self._accepted,
            preemptions=self._scheduler.preempted,
            blocks=blocks.count,
            blocks_used=blocks.count - blocks.available,
        )

    def submit(self, request: Request) -> None:
        """Take a request in. One that can't be read, or could never fit, fails in the next step.

        An id that is in the engine already is forgotten first: the newer one counts.
        """
        self.cancel(request.id)
        sampling = sampling_of(request.params)
        try:
            prompt = self._prompts.read(request)
            self._check_token(max(prompt), "the prompt")
            self._check_token(largest_token(sampling), "params")
            room = self._prompts.room(len(prompt))
            self._check_chances(request, room)
        except Refused as refused:
            self._ended.append(Failed(request.id, refused.error))
            return
        self._read += len(prompt)
        most = min(sampling.max_tokens, room)
        seed = self._draw_seed() if sampling.seed is None else sampling.seed
        self._answers[request.id] = Answer(request.id, len(prompt), sampling, most, self._voice)
        members: list[Member] = []
        for choice in range(sampling.n):
            member = Member(
                tokens=list(prompt),
                limit=len(prompt) + most,
                owner=request.tenant,
                parent=members[0] if members else None,
                drafts=self._drafts_for(sampling),
                job_id=request.id,
                choice=choice,
                prompt=len(prompt),
                sampling=sampling,
                seed=stream_of(seed, choice),
            )
            members.append(member)
            self._scheduler.add(member)
        self._members[request.id] = members

    def step(self) -> list[Output]:
        """Launch one step, and tell what came of it; or of the one before."""
        try:
            self._advance()
        except Exception as error:
            if is_fatal(error) or not self._scheduler.running:
                raise
            self._retreat(error)
        ended, self._ended = self._ended, []
        return ended

    def cancel(self, job_id: str) -> None:
        """Forget a request; unknown ids are ignored."""
        self._forget(job_id)
        self._ended = [output for output in self._ended if output.id != job_id]

    def cut(self, job_id: str) -> Cut:
        """End a request; the text that it has come to is kept."""
        answer = self._answers.get(job_id)
        self.cancel(job_id)
        try:
            return Cut(job_id) if answer is None else answer.cut()
        except Exception:
            # As in _take. It ends anyhow, only without its text.
            logger.exception("the text of %s can't be told", job_id)
            return Cut(job_id)

    def _check_token(self, largest: int, of: str) -> None:
        # A tokenizer may know more of them than its model. Such a one would take a GPU along.
        if largest >= self._vocabulary:
            raise Refused(f"{of}: token {largest} is not one of the model's {self._vocabulary}")

    @staticmethod
    def _check_chances(request: Request, room: int) -> None:
        # The API refuses them. A job may be from before it did.
        why = too_many_chances(request.params, room)
        if why is not None:
            raise Refused(f"params: {why}")

    def _drafts_for(self, sampling: Sampling) -> Drafts | None:
        # Penalties count each token that is drawn, and would count those that were drawn after a wrong draft.
        penalised = bool(features_of(sampling) & Features.PENALISED)
        return Drafts(self._drafts) if self._drafts and not penalised else None

    def _advance(self) -> None:
        plan = self._scheduler.plan()
        if plan.rows:
            entries = [_entry(each, self._voice) for each in plan.admitted]
            self._flights.append((plan, self._executor.launch(plan, entries)))
        if len(self._flights) > self._ahead or (self._flights and not plan.rows):
            plan, flight = self._flights.popleft()
            self._tell(plan, flight.land())

    def _tell(self, plan: Plan, landed: Landed) -> None:
        """Give each sequence the tokens that were drawn for it, unless it has ended meanwhile."""
        sharing = len({row.sequence.job_id for row in plan.rows if isinstance(row.sequence, Member)})
        first = 0
        for row in plan.rows:
            if row.draws:
                self._hear(row, landed, first, sharing)
            first += row.draws_of

    def _hear(self, row: Row, landed: Landed, first: int, sharing: int) -> None:
        """What a row drew, from the ``first`` on: up to and with the token that is not what was drafted there."""
        member = row.sequence
        assert isinstance(member, Member)
        sampling = member.sampling
        self._drafted += len(row.draft)
        for place in range(row.draws_of):
            if member.place is Place.GONE:
                return
            token = landed.token(first + place)
            if token is None:
                self._fail(member, not_finite())
                return
            # If one row asked, all have them.
            chances = landed.chances(first + place, sampling.top_logprobs) if sampling.logprobs else None
            self._take(member, token, chances, sharing)
            if place < len(row.draft):
                if token != row.draft[place]:
                    return
                self._accepted += 1

    def _take(self, member: Member, token: int, chances: Chances | None, sharing: int) -> None:
        self._drawn += 1
        self._scheduler.know(member, token)
        try:
            outputs, over = self._answers[member.job_id].take(member.choice, token, chances, sharing)
        except Exception as error:  # noqa: BLE001 - some tokenizers fail on tokens that only their model has
            self._fail(member, blame(error), spoilt=False)
            return
        self._ended += outputs
        if over:
            self._remove(member)
            if all(each.place is Place.GONE for each in self._members[member.job_id]):
                self._forget(member.job_id)
            self._scheduler.advance()

    def _fail(self, member: Member, error: JobError, *, spoilt: bool = True) -> None:
        self._remove(member, spoilt=spoilt)
        self._forget(member.job_id)
        self._ended.append(Failed(member.job_id, error))

    def _forget(self, job_id: str) -> None:
        for member in self._members.pop(job_id, []):
            self._remove(member)
        self._answers.pop(job_id, None)

    def _remove(self, member: Member, *, spoilt: bool = False) -> None:
        if member.place is Place.RUNNING:
            self._executor.release(member.slot)
        if member.place is not Place.GONE:
            self._scheduler.remove(member, spoilt=spoilt)

    def _retreat(self, error: Exception) -> None:
        """A step failed. All go back, to be computed again, half as many at a time; each that ends lets one more in."""
        self._flights.clear()
        running = list(self._scheduler.running)
        for sequence in running:
            self._executor.release(sequence.slot)
        self._scheduler.retreat(len(running) // 2)
        if len(running) == 1:
            alone = running[0]
            assert isinstance(alone, Member)
            self._fail(alone, blame(error))


def _entry(sequence: Sequence, voice: Voice) -> Entry:
    assert isinstance(sequence, Member)
    prompt, answer = sequence.tokens[: sequence.prompt], sequence.tokens[sequence.prompt :]
    return Entry(sequence.slot, sequence.sampling, sequence.seed, prompt, answer, voice.end_tokens)
