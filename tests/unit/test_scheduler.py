"""The scheduler and its blocks against a cache that remembers whose tokens it holds."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engines.causal.blocks import NOBODYS, Blocks
from worker.engines.causal.drafts import Drafts
from worker.engines.causal.scheduler import Place, Plan, Row, Scheduler, Sequence

SIZE = 4


@dataclass
class Device:
    """What a model would see: each cell holds the tokens up to and with its own, as who wrote it knew them.

    ``depth`` steps are launched before the tokens of one are known. Each sequence has up to ``drafts`` tokens drafted.
    """

    scheduler: Scheduler
    blocks: Blocks
    depth: int
    drafts: int = 0
    cells: dict[int, tuple[int, ...]] = field(default_factory=dict)
    salts: dict[Sequence, int] = field(default_factory=dict)
    flying: list[list[tuple[Sequence, list[int]]]] = field(default_factory=list)
    computed: int = 0
    accepted: int = 0

    def add(
        self, tokens: list[int], most: int, parent: Sequence | None = None, salt: int = 0, owner: str = ""
    ) -> Sequence:
        drafts = Drafts(self.drafts) if self.drafts else None
        sequence = Sequence(tokens=list(tokens), limit=len(tokens) + most, owner=owner, parent=parent, drafts=drafts)
        self.salts[sequence] = salt
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> Plan:
        plan = self.scheduler.plan()
        self.flying.append(self._run(plan))
        if len(self.flying) > self.depth:
            for sequence, tokens in self.flying.pop(0):
                self.accepted += len(tokens) - 1
                for token in tokens:
                    self._tell(sequence, token)
        return plan

    def fail(self) -> None:
        """A step breaks; what was under way is lost."""
        running = len(self.scheduler.running)
        self.scheduler.plan()
        self.flying.clear()
        self.scheduler.retreat(running // 2)

    def end(self) -> None:
        for _ in range(3000):
            if all(sequence.place is Place.GONE for sequence in self.salts):
                return
            self.step()
        raise AssertionError("somebody waits for ever")

    def _tell(self, sequence: Sequence, token: int) -> None:
        if sequence.place is Place.GONE:
            return
        self.scheduler.know(sequence, token)
        if len(sequence.tokens) == sequence.limit:
            self.scheduler.remove(sequence)
            self.scheduler.advance()

    def _run(self, plan: Plan) -> list[tuple[Sequence, list[int]]]:
        assert len({id(row.sequence) for row in plan.rows}) == len(plan.rows)
        for copy in plan.copies:
            for place in range(SIZE):
                self.cells[copy.target * SIZE + place] = self.cells.get(copy.source * SIZE + place, ())
        true = {row.sequence: (*row.sequence.tokens, *self._under_way(row.sequence)) for row in plan.rows}
        for row in plan.rows:
            assert row.decodes or row.end <= len(row.sequence.tokens), "reads what is not known"
            assert row.end + len(row.draft) < row.sequence.limit or not row.draft, "drafts more than it may come to"
            whole = *true[row.sequence][: row.end], *row.draft
            for place in range(row.start, row.start + row.tokens):
                self.cells[cell(row.sequence, place)] = whole[: place + 1]
                self.computed += 1
        for row in plan.rows:
            for place in range(row.end):
                assert self.cells[cell(row.sequence, place)] == true[row.sequence][: place + 1], "it is another's"
        return [(row.sequence, self._drawn(row, true[row.sequence])) for row in plan.rows if row.draws]

    def _drawn(self, row: Row, true: tuple[int, ...]) -> list[int]:
        drawn = [after(true, self.salts[row.sequence])]
        for token in row.draft:
            if drawn[-1] != token:
                break
            drawn.append(after((*true, *drawn), self.salts[row.sequence]))
        return drawn

    def _under_way(self, sequence: Sequence) -> list[int]:
        return [token for step in self.flying for each, tokens in step if each is sequence for token in tokens]


def cell(sequence: Sequence, place: int) -> int:
    block = sequence.table.blocks[place // SIZE]
    assert block != NOBODYS
    return block * SIZE + place % SIZE


def after(tokens: tuple[int, ...], salt: int) -> int:
    """The only right next token. Texts that are near their start have no pattern; then they begin to go round."""
    if len(tokens) > 14:
        return tokens[-3]
    return (salt + sum((i + 1) * token for i, token in enumerate(tokens))) % 3


def answer(tokens: list[int], most: int, salt: int = 0) -> list[int]:
    whole = list(tokens)
    for _ in range(most):
        whole.append(after(tuple(whole), salt))
    return whole


def device(
    *, blocks: int = 40, slots: int = 4, budget: int = 16, depth: int = 0, parts: int = 1, drafts: int = 0
) -> Device:
    pool = Blocks(blocks, SIZE)
    scheduler = Scheduler(pool, slots=slots, budget=budget, parts=parts, drafted=2 * drafts)
    return Device(scheduler, pool, depth, drafts)


PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=18)
"""Of two tokens, so that many begin alike."""


ASKED = st.tuples(PROMPTS, st.integers(1, 12), st.integers(1, 3), st.integers(0, 4))
"""A prompt, how long an answer may be, how many answers, and the steps until the next request."""


@given(
    asked=st.lists(ASKED, min_size=1, max_size=12),
    cancelled=st.dictionaries(st.integers(0, 40), st.integers(0, 15), max_size=6),
    failing=st.sets(st.integers(0, 30), max_size=2),
    blocks=st.integers(9, 30),
    slots=st.integers(1, 5),
    depth=st.integers(0, 3),
    parts=st.integers(1, 3),
    drafts=st.integers(0, 5),
)
def test_everyone_gets_the_answer_to_their_own_tokens(
    *,
    asked: list[tuple[list[int], int, int, int]],
    cancelled: dict[int, int],
    failing: set[int],
    blocks: int,
    slots: int,
    depth: int,
    parts: int,
    drafts: int,
) -> None:
    run = device(blocks=blocks, slots=slots, budget=slots + 6, depth=depth, parts=parts, drafts=0 if depth else drafts)
    expected: list[tuple[Sequence, list[int]]] = []
    steps = 0

    def step() -> None:
        nonlocal steps
        run.fail() if steps in failing else run.step()
        victim = cancelled.get(steps, len(expected))
        if victim < len(expected) and expected[victim][0].place is not Place.GONE:
            run.scheduler.remove(expected[victim][0])
            expected.pop(victim)
        steps += 1
        assert len({each.slot for each in run.scheduler.running}) == len(run.scheduler.running) <= slots

    for prompt, most, choices, pause in asked:
        first = run.add(prompt, most)
        expected += [(first, answer(prompt, most))]
        expected += [(run.add(prompt, most, first, salt), answer(prompt, most, salt)) for salt in range(1, choices)]
        for _ in range(pause):
            step()
    while steps < 41:
        step()
    run.end()
    assert [sequence.tokens for sequence, _ in expected] == [right for _, right in expected]
    assert run.blocks.available == blocks - 1, "blocks are lost"


def test_a_prompt_that_many_share_is_computed_once() -> None:
    run = device(blocks=200, slots=8, budget=64)
    shared = [1, 0, 2] * 8
    for number in range(8):
        run.add([*shared, number % 3, number], 2)
    run.end()
    assert run.computed < len(shared) + 8 * (2 + SIZE + 2)


def test_whoever_decodes_gets_a_token_in_every_step_however_long_a_prompt_is_read() -> None:
    run = device(blocks=100, slots=4, budget=8)
    quick = run.add([1], 40)
    run.step()
    run.add([2] * 100, 1)
    for _ in range(10):
        plan = run.step()
        assert [row.tokens for row in plan.rows if row.sequence is quick] == [1]
        assert sum(row.tokens for row in plan.rows) == 8


@pytest.mark.parametrize("parts", [2, 3])
def test_those_who_decode_take_turns_and_nobody_is_in_two_steps_that_follow(parts: int) -> None:
    run = device(blocks=200, slots=8, budget=64, depth=parts, parts=parts)
    for number in range(7):
        run.add([number], 60)
    for _ in range(2 * parts):
        run.step()
    last: dict[Sequence, int] = {}
    for turn in range(30):
        plan = run.step()
        assert len(plan.rows) in {7 // parts, 7 // parts + 1}
        for row in plan.rows:
            assert turn - last.get(row.sequence, -parts) >= parts
            last[row.sequence] = turn
    assert len(last) == 7
    run.end()


def test_drafts_that_come_true_save_steps_and_never_take_a_prompts_place() -> None:
    run = device(blocks=100, slots=4, budget=12, drafts=4)
    quick = run.add([1], 80)
    for _ in range(17):
        run.step()
    run.add([2] * 60, 1)
    for _ in range(5):
        rows = {row.sequence: row for row in run.step().rows}
        assert sum(row.tokens for row in rows.values()) == 12
        assert rows[quick].draft == ()
    run.end()
    assert quick.tokens == answer([1], 80)
    assert run.accepted > 20


def test_one_alone_has_every_turn() -> None:
    run = device(depth=2, parts=2)
    run.add([1], 30)
    for _ in range(20):
        assert len(run.step().rows) == 1


def test_the_oldest_is_never_sent_back() -> None:
    run = device(blocks=12, slots=4, budget=20)
    oldest = run.add([1, 0, 1], 30)
    others = [run.add([0, 2, number], 30) for number in range(3)]
    while oldest.place is not Place.GONE:
        run.step()
        assert oldest.place is not Place.WAITING
    assert run.scheduler.preempted > 0
    run.end()
    assert [each.tokens for each in others] == [answer([0, 2, number], 30) for number in range(3)]


def test_what_is_not_to_be_trusted_is_not_found_again() -> None:
    run = device(blocks=40, slots=2)
    bad = run.add([1] * 12, 8)
    run.step()
    run.scheduler.remove(bad, spoilt=True)
    before = run.computed
    run.add([1] * 12, 1)
    run.end()
    assert run.computed - before == 12


def test_what_one_tenant_asked_is_read_again_for_another() -> None:
    run = device(blocks=60, slots=4)
    prompt = [1] * 12
    read = []
    for owner in ("a", "a", "b", "a", "b"):
        before = run.computed
        run.add(prompt, 1, owner=owner)
        run.end()
        read.append(run.computed - before)
    assert read[0] == read[2] == 12
    assert all(again < 12 for again in (read[1], read[3], read[4]))


def test_a_budget_that_leaves_nothing_for_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match="larger than its slots"):
        device(slots=4, budget=4)
