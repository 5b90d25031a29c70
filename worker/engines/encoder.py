"""The encoder engine: the texts of all requests are one pool, run in batches of like length."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import torch

from ktqueue.batching import Rules, next_batch
from ktqueue.job import Usage
from ktqueue.room import Room
from worker.engines.base import Cut, Failed, Finished, Output, Progress, Request, Vitals
from worker.engines.heads import Head
from worker.engines.texts import Item
from worker.engines.trouble import Refused, blame, is_fatal, not_finite

WINDOW = 4096
"""How many of the oldest texts a batch is chosen from; more would make choosing slow."""

_Key: TypeAlias = tuple[str, int]
"""A request's id, and which of its items."""


@dataclass(slots=True)
class _Member:
    """One request in the engine; ``rows`` holds the output of each of its ``items`` that has been run."""

    request: Request
    items: list[Item]
    rows: dict[int, torch.Tensor] = field(default_factory=dict)
    largest_batch: int = 0


class EncoderEngine:
    """Runs one batch a step, that of the text which waits longest. `ktqueue.batching` says which others are in it."""

    def __init__(self, head: Head, *, max_batch: int, rules: Rules) -> None:
        self._head = head
        self._max_batch = max_batch
        self._rules = rules
        self._members: dict[str, _Member] = {}
        self._waiting: dict[_Key, Item] = {}
        self._suspects: dict[str, None] = {}
        self._ended: list[Output] = []
        self._vitals = Vitals()

    def capacity(self) -> int:
        """How many more requests it would take now."""
        return max(0, self._max_batch - len(self._members))

    def room(self) -> Room:
        """As many requests as may run together."""
        return Room(self._max_batch)

    def vitals(self) -> Vitals:
        """The tokens it has read."""
        return self._vitals

    def submit(self, request: Request) -> None:
        """Take a request in. One that can't be read, or has a text over the context, fails in the next step."""
        try:
            items = self._head.items(request)
        except Refused as refused:
            self._ended.append(Failed(request.id, refused.error))
            return
        self._members[request.id] = _Member(request, items)
        self._waiting |= {(request.id, index): item for index, item in enumerate(items)}

    def step(self) -> list[Output]:
        """Run one batch."""
        batch = self._choose()
        if batch:
            self._run(batch)
        ended, self._ended = self._ended, []
        return ended

    def cancel(self, job_id: str) -> None:
        """Forget a request; unknown ids are ignored."""
        self._forget(job_id)
        self._ended = [output for output in self._ended if output.id != job_id]

    def cut(self, job_id: str) -> Cut:
        """End a request; half a result would be none."""
        self.cancel(job_id)
        return Cut(job_id)

    def _choose(self) -> list[_Key]:
        """A batch of all that waits; or, after one failed, of one request that was in it, to find the culprit."""
        suspect = next(iter(self._suspects), None)
        keys = (key for key in self._waiting if suspect is None or key[0] == suspect)
        window = list(islice(keys, WINDOW))
        if not window:
            return []
        lengths = [len(self._waiting[key].ids) for key in window]
        return [window[index] for index in next_batch(lengths, self._rules)]

    def _run(self, batch: list[_Key]) -> None:
        sharing = {job_id: self._members[job_id] for job_id, _ in batch}
        try:
            rows = self._head.run([self._waiting[key] for key in batch])
        except Exception as error:
            if is_fatal(error):
                raise
            self._accuse(sharing, error)
            return
        self._count([len(self._waiting[key].ids) for key in batch])
        for (job_id, index), row in zip(batch, rows, strict=True):
            del self._waiting[job_id, index]
            sharing[job_id].rows[index] = row
        for member in sharing.values():
            member.largest_batch = max(member.largest_batch, len(sharing))
            self._advance(member)

    def _count(self, lengths: list[int]) -> None:
        tokens, padded = sum(lengths), max(lengths) * len(lengths)
        self._vitals = Vitals(
            prompt_tokens=self._vitals.prompt_tokens + tokens,
            padding_tokens=self._vitals.padding_tokens + padded - tokens,
        )

    def _accuse(self, sharing: dict[str, _Member], error: Exception) -> None:
        """A batch failed. One request alone is to blame for it; several are run again, one by one."""
        if len(sharing) > 1:
            self._suspects |= dict.fromkeys(sharing)
            return
        for job_id in sharing:
            self._forget(job_id)
            self._ended.append(Failed(job_id, blame(error)))

    def _advance(self, member: _Member) -> None:
        request, done, total = member.request, len(member.rows), len(member.items)
        if done < total:
            self._ended.append(Progress(request.id, done, total))
            return
        self._forget(request.id)
        self._ended.append(self._outcome(member))

    def _outcome(self, member: _Member) -> Output:
        request = member.request
        rows = torch.stack([member.rows[index] for index in range(len(member.items))])
        if not rows.isfinite().all():
            return Failed(request.id, not_finite())
        try:
            result = self._head.result(request, rows)
        except Refused as refused:
            return Failed(request.id, refused.error)
        except Exception as error:
            if is_fatal(error):
                raise
            return Failed(request.id, blame(error))
        usage = Usage(prompt_tokens=sum(len(item.ids) for item in member.items), completion_tokens=0)
        return Finished(request.id, result, usage, member.largest_batch)

    def _forget(self, job_id: str) -> None:
        self._suspects.pop(job_id, None)
        member = self._members.pop(job_id, None)
        for index in range(len(member.items) if member else 0):
            self._waiting.pop((job_id, index), None)
