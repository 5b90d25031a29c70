"""The causal engine: a batch that requests join and leave between any two tokens."""

from __future__ import annotations

from collections import deque
from itertools import islice, takewhile

import torch

from ktqueue.batching import Rules, next_batch
from ktqueue.room import Room
from worker.engines.base import Failed, Finished, Output, Request
from worker.engines.causal.dense import DenseBatch, Reading
from worker.engines.causal.drawing import draw
from worker.engines.causal.prompt import PromptReader
from worker.engines.causal.sampling import sampling_of
from worker.engines.causal.sequence import Sequence, Voice
from worker.engines.trouble import Refused, blame, is_fatal, not_finite


class CausalEngine:
    """Each step reads waiting prompts, up to ``rules.budget`` padded tokens, and gives every member one token.

    A forward that fails takes nobody down that it need not: what its members are is their tokens, so they are read
    again, fewer at a time, until the one that can't be run is alone.
    """

    def __init__(self, batch: DenseBatch, prompts: PromptReader, voice: Voice, *, max_batch: int, rules: Rules) -> None:
        self._batch = batch
        self._prompts = prompts
        self._voice = voice
        self._max_batch = max_batch
        self._rules = rules
        self._most_rows = max_batch
        self._waiting: deque[Sequence] = deque()
        self._reading: list[Sequence] = []
        self._pages: Reading | None = None
        self._active: list[Sequence] = []
        self._ended: list[Output] = []

    def capacity(self) -> int:
        """How many more requests it would take now."""
        return max(0, self._max_batch - len(self._active) - len(self._reading) - len(self._waiting))

    def room(self) -> Room:
        """As many requests as may run together."""
        return Room(self._max_batch)

    def submit(self, request: Request) -> None:
        """Take a request in. One that can't be read, or leaves no room for an answer, fails in the next step."""
        try:
            prompt = self._prompts.read(request)
        except Refused as refused:
            self._ended.append(Failed(request.id, refused.error))
            return
        sampling = sampling_of(request.params)
        most = min(sampling.max_tokens, self._prompts.room(len(prompt)))
        self._waiting.append(Sequence(request.id, prompt, sampling, most, self._voice))

    def step(self) -> list[Output]:
        """Read for a while, then one token for every member."""
        try:
            self._read()
            self._decode()
        except Exception as error:
            if is_fatal(error) or not (self._active or self._reading):
                raise
            self._retreat(error)
        ended, self._ended = self._ended, []
        return ended

    def cancel(self, job_id: str) -> None:
        """Forget a request; unknown ids are ignored."""
        self._waiting = deque(sequence for sequence in self._waiting if sequence.id != job_id)
        self._ended = [output for output in self._ended if output.id != job_id]
        if any(sequence.id == job_id for sequence in self._reading):
            self._reading, self._pages = [], None
        for row, sequence in enumerate(self._active):
            if sequence.id == job_id:
                self._leave(row)
                break

    def _read(self) -> None:
        budget = self._rules.budget
        while budget > 0 and (self._reading or self._begin(budget)):
            budget -= self._read_piece(budget)

    def _begin(self, budget: int) -> bool:
        """Choose who is read next: the one that waits longest, and others of about its length."""
        candidates = self._candidates()
        if not candidates:
            return False
        together = list(takewhile(lambda sequence: not sequence.suspect, candidates)) or candidates[:1]
        lengths = [len(sequence.tokens) for sequence in together]
        chosen = next_batch(lengths, Rules(budget, self._rules.overhead))
        self._reading = [together[index] for index in chosen]
        self._waiting = deque(sequence for sequence in self._waiting if sequence not in self._reading)
        self._pages = self._batch.read([sequence.tokens for sequence in self._reading])
        return True

    def _candidates(self) -> list[Sequence]:
        """The oldest that wait, as many as there are rows and memory for, even if all of them come to full length."""
        candidates: list[Sequence] = []
        longest = max((sequence.total for sequence in self._active), default=0)
        for sequence in islice(self._waiting, max(0, self._most_rows - len(self._active))):
            longest = max(longest, sequence.total)
            if not self._batch.fits(len(self._active) + len(candidates) + 1, longest):
                break
            candidates.append(sequence)
        return candidates

    def _read_piece(self, budget: int) -> int:
        """Read a piece of the prompts at hand, whole if it fits the budget: how many padded tokens that were."""
        assert self._pages is not None
        columns = min(self._pages.left, max(1, budget // len(self._reading)))
        read = columns * len(self._reading)
        try:
            logits = self._pages.advance(columns)
        except Exception as error:
            if is_fatal(error):
                raise
            self._accuse(error)
            return read
        if self._pages.left == 0:
            self._batch.join(self._pages)
            joined, self._reading, self._pages = self._reading, [], None
            self._active += joined
            self._give_tokens(joined, logits)
        return read

    def _decode(self) -> None:
        if self._active:
            logits = self._batch.decode([sequence.last for sequence in self._active])
            self._give_tokens(list(self._active), logits)

    def _give_tokens(self, members: list[Sequence], logits: torch.Tensor) -> None:
        """Draw a token for each of the last so many rows."""
        first = len(self._active) - len(members)
        tokens = draw(logits, [sequence.draw() for sequence in members])
        leaving: list[int] = []
        for row, (sequence, token) in enumerate(zip(members, tokens, strict=True), start=first):
            outputs = [Failed(sequence.id, not_finite())] if token is None else sequence.take(token, len(members))
            if any(isinstance(output, Finished | Failed) for output in outputs):
                leaving.append(row)
            self._ended += outputs
        # From the last, for the row that takes a free one's place must be one that stays.
        for row in reversed(leaving):
            self._leave(row)
            self._most_rows = min(self._max_batch, self._most_rows + 1)

    def _leave(self, row: int) -> None:
        self._batch.leave(row)
        self._active[row] = self._active[-1]
        del self._active[-1]

    def _accuse(self, error: Exception) -> None:
        """Reading failed. One prompt alone is to blame for it; several are read again, one by one."""
        accused, self._reading, self._pages = self._reading, [], None
        if len(accused) == 1:
            self._ended.append(Failed(accused[0].id, blame(error)))
            return
        for sequence in accused:
            sequence.suspect = True
        self._waiting.extendleft(reversed(accused))

    def _retreat(self, error: Exception) -> None:
        """The batch failed. All go back, to be read again, half as many at a time; each that ends lets one more in."""
        members = self._active + self._reading
        self._active, self._reading, self._pages = [], [], None
        self._batch.clear()
        if len(members) == 1:
            self._ended.append(Failed(members[0].id, blame(error)))
            return
        self._waiting.extendleft(reversed(members))
        self._most_rows = len(members) // 2
