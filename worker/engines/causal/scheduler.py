"""Who computes how many tokens in the next step. Pure: it knows lengths and blocks, neither tensors nor clocks.

Every step has a budget of tokens. First each sequence that decodes gets its one token, so that nobody who runs waits
for a long prompt; what is left of the budget goes to prompts, oldest first, a piece at a time (A. Agrawal et al.,
"Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", 2024). When blocks run out, the youngest
gives its own up and is computed again later; the oldest is never the youngest, so it always comes to its end, and then
the next is the oldest: nobody waits for ever.

Where tokens are drafted, a sequence that decodes has those computed along with its one, of what is left of the budget
once all have theirs.

Where a model is spread over several devices, each works on a step of its own. Then a step takes only a part of those
that decode, whoever waited longest: what a sequence draws in one step it needs for its next.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from worker.engines.causal.blocks import Blocks, Copy, Table
from worker.engines.causal.drafts import Drafts


class Place(Enum):
    """Where a sequence is."""

    WAITING = auto()
    RUNNING = auto()
    GONE = auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and what was drawn after it, as far as it is known.

    ``tokens`` are known. ``length`` counts them and those that a launched step draws; of these, ``computed`` are in
    the cache. ``limit`` is the length it may come to. ``slot`` is its place in the batch while it runs. ``turn`` is the
    number of the last step that it was in. ``parent`` has the same prompt. Only those of one ``owner`` share what they
    have read. ``drafts`` guess how it goes on; None for one that has none.
    """

    tokens: list[int]
    limit: int
    owner: str = ""
    parent: Sequence | None = None
    drafts: Drafts | None = None
    order: int = 0
    length: int = 0
    computed: int = 0
    slot: int = -1
    turn: int = 0
    decodes: bool = False
    place: Place = Place.WAITING
    table: Table = field(default_factory=Table)

    def __post_init__(self) -> None:
        self.length = len(self.tokens)

    @property
    def whole(self) -> bool:
        """Whether all that it may come to has been launched."""
        return self.length >= self.limit

    @property
    def told(self) -> bool:
        """Whether all its tokens are known here."""
        return len(self.tokens) == self.length


class Row(NamedTuple):
    """The tokens of a sequence from ``start`` to before ``end``. It ``draws`` a next one if it has no more.

    The tokens of ``draft`` may come next: they are computed too, and a token is drawn after each.
    """

    sequence: Sequence
    start: int
    end: int
    draws: bool
    decodes: bool
    draft: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """How many are computed."""
        return self.end - self.start + len(self.draft)

    @property
    def draws_of(self) -> int:
        """How many are drawn."""
        return 1 + len(self.draft) if self.draws else 0


@dataclass(slots=True)
class Plan:
    """One step: ``rows``, those that decode first; what is to be copied before it; and who came in."""

    rows: list[Row] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Sequences that wait and run. ``slots`` run at once; a step computes up to ``budget`` tokens.

    Those that decode take turns in so many ``parts``: one that was in a step is in none of the next ``parts - 1``, as
    long as there are others. The budget must be larger than the slots, for a prompt to advance while all the others
    decode. Up to ``drafted`` tokens of a step are drafts; for those, the tokens of a step must be known before the
    next is planned.
    """

    def __init__(self, blocks: Blocks, *, slots: int, budget: int, parts: int = 1, drafted: int = 0) -> None:
        if budget <= slots:
            raise ValueError("the budget of a step must be larger than its slots")
        self._blocks = blocks
        self._budget = budget
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._slots = list(range(slots - 1, -1, -1))
        self._most = slots
        self._arrivals = 0
        self._parts = parts
        self._drafted = drafted
        self._turn = 0
        self.preempted = 0

    @property
    def blocks(self) -> Blocks:
        """What sequences are given of the cache."""
        return self._blocks

    @property
    def running(self) -> list[Sequence]:
        """Those that run, oldest first."""
        return self._running

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn."""
        sequence.order = self._arrivals
        self._arrivals += 1
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence, *, spoilt: bool = False) -> None:
        """It has ended, or nobody wants it: its slot and its blocks are free, and nobody finds what is ``spoilt``."""
        if sequence.place is Place.RUNNING:
            if spoilt:
                self._blocks.discard(sequence.table)
            self._running.remove(sequence)
            self._release(sequence)
        elif sequence.place is Place.WAITING:
            self._waiting.remove(sequence)
        sequence.place = Place.GONE

    def retreat(self, most: int) -> None:
        """Send all that run back, and run only ``most`` at once until `advance`. For after a step that failed."""
        for sequence in reversed(self._running):
            self._release(sequence)
            sequence.place = Place.WAITING
            self._waiting.appendleft(sequence)
        for sequence in self._waiting:
            # What was under way for them is lost.
            sequence.length = len(sequence.tokens)
        self._running.clear()
        self._blocks.forget()
        self._most = max(1, most)

    def advance(self) -> None:
        """One ended well: one more may run at once."""
        self._most = min(self._most + 1, len(self._slots) + len(self._running))

    def plan(self) -> Plan:
        """The next step, and it counts as launched: lengths are those after it."""
        plan = Plan()
        rows: dict[Sequence, tuple[Row, list[Copy]]] = {}
        self._turn += 1
        decoding = [each for each in self._running if each.decodes and not each.whole]
        reading = [each for each in self._running if not each.decodes]
        sent_back = self.preempted
        due = self._due(decoding)
        rested = [each for each in due if each.turn <= self._turn - self._parts]
        budget = self._continue(rested + reading, rows)
        if self.preempted == sent_back:
            self._admit(budget, rows, plan)
        if not rows:
            # What they need is on its way; the device that has to wait for it has nothing else to do.
            self._continue(due, rows)
        if self._drafted:
            self._draft(rows)
        for row, copies in rows.values():
            plan.rows.append(row)
            plan.copies += copies
            self._launched(row)
        # The longest of those that decode first: rows of about one length are then neighbours.
        plan.rows.sort(key=lambda row: -row.end if row.decodes else 1)
        return plan

    def know(self, sequence: Sequence, token: int) -> None:
        """A token that a launched step has drawn."""
        sequence.tokens.append(token)
        if len(sequence.tokens) > sequence.length:
            # A draft came true: what it was computed from is in the cache.
            sequence.length += 1
            sequence.computed += 1

    def _due(self, decoding: list[Sequence]) -> list[Sequence]:
        """Those of them whose turn it is, or comes next."""
        if self._parts == 1:
            return decoding
        # Over as many turns as there are parts these shares come to all of them, and are as equal as can be.
        count, turn = len(decoding), self._turn % self._parts
        share = (turn + 1) * count // self._parts - turn * count // self._parts
        return sorted(decoding, key=lambda each: each.turn)[: max(1, share)]

    def _continue(self, running: list[Sequence], rows: dict[Sequence, tuple[Row, list[Copy]]]) -> int:
        """Give these their tokens of this step, in order: what is left of its budget."""
        budget = self._budget
        for sequence in running:
            budget -= self._row(sequence, budget, rows)
        for row, _ in rows.values():
            self._fill(row)
        return budget

    def _row(self, sequence: Sequence, budget: int, rows: dict[Sequence, tuple[Row, list[Copy]]]) -> int:
        """Give a running sequence its tokens of this step, if need be at the cost of the youngest: how many."""
        count = min(sequence.length - sequence.computed, budget)
        if sequence.place is not Place.RUNNING or sequence.whole or count <= 0:
            return 0
        end = sequence.computed + count
        while (copies := self._blocks.reserve(sequence.table, sequence.computed, end)) is None:
            youngest = self._running[-1]
            rows.pop(youngest, None)
            self._send_back(youngest)
            if youngest is sequence:
                return 0
        rows[sequence] = _row(sequence, count), copies
        return count

    def _draft(self, rows: dict[Sequence, tuple[Row, list[Copy]]]) -> None:
        """Let rows have their drafts, as far as there is room without taking anybody's."""
        left = min(self._drafted, self._budget - sum(row.tokens for row, _ in rows.values()))
        for sequence, (row, copies) in rows.items():
            if not row.decodes or sequence.drafts is None or not left:
                continue
            draft = sequence.drafts.next(sequence.tokens)[: min(left, sequence.limit - sequence.length - 1)]
            if not draft:
                continue
            more = self._blocks.reserve(sequence.table, row.end, row.end + len(draft))
            if more is not None:
                rows[sequence] = row._replace(draft=tuple(draft)), copies + more
                left -= len(draft)

    def _admit(self, budget: int, rows: dict[Sequence, tuple[Row, list[Copy]]], plan: Plan) -> None:
        """Let in who waits, in order, while there are slots, and blocks for all they have so far and one token more."""
        while self._waiting and budget > 0 and len(self._running) < self._most:
            sequence = self._waiting[0]
            # It may have been sent back while a token of it was under way, which it is to be read again with.
            begun = self._begin(sequence, budget) if sequence.told else None
            if begun is None:
                break
            rows[sequence] = begun
            self._waiting.popleft()
            sequence.place, sequence.slot = Place.RUNNING, self._slots.pop()
            self._insert(sequence)
            self._fill(begun[0])
            plan.admitted.append(sequence)
            budget -= begun[0].tokens

    def _begin(self, sequence: Sequence, budget: int) -> tuple[Row, list[Copy]] | None:
        table, cached = self._found(sequence)
        count = min(sequence.length - cached, budget)
        enough = self._blocks.needed(sequence.length + 1) - len(table.blocks) <= self._blocks.available
        copies = self._blocks.reserve(table, cached, cached + count) if enough else None
        if copies is None:
            self._blocks.close(table)
            return None
        sequence.table, sequence.computed = table, cached
        return _row(sequence, count), copies

    def _found(self, sequence: Sequence) -> tuple[Table, int]:
        """What is in the cache of it already: all but the last token where its parent has it, else whole blocks."""
        parent = sequence.parent
        if parent is not None and parent.place is Place.RUNNING and parent.computed >= sequence.length:
            return self._blocks.fork(parent.table, sequence.length), sequence.length - 1
        table = self._blocks.open(sequence.tokens, sequence.owner)
        return table, len(table.blocks) * self._blocks.size

    def _insert(self, sequence: Sequence) -> None:
        """Those that were sent back come in again before younger ones, so this is almost always the end."""
        place = len(self._running)
        while place and self._running[place - 1].order > sequence.order:
            place -= 1
        self._running.insert(place, sequence)

    def _send_back(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._release(sequence)
        sequence.place = Place.WAITING
        self._waiting.appendleft(sequence)
        self.preempted += 1

    def _release(self, sequence: Sequence) -> None:
        self._blocks.close(sequence.table)
        self._slots.append(sequence.slot)
        sequence.slot, sequence.computed, sequence.decodes, sequence.parent = -1, 0, False, None

    def _fill(self, row: Row) -> None:
        """Let what this row computes be found, as far as its tokens are known."""
        sequence = row.sequence
        self._blocks.fill(sequence.table, sequence.tokens, min(row.end, len(sequence.tokens)))

    def _launched(self, row: Row) -> None:
        sequence = row.sequence
        sequence.computed = row.end
        sequence.turn = self._turn
        if row.draws:
            sequence.length += 1
            sequence.decodes = True


def _row(sequence: Sequence, count: int) -> Row:
    end = sequence.computed + count
    return Row(sequence, sequence.computed, end, end == sequence.length, sequence.decodes)
