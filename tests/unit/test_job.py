"""A job's states, its fence and its id."""

from __future__ import annotations

import re
import uuid
from itertools import pairwise

import pytest

import ktqueue.job
from ktqueue.job import TRANSITIONS, Fence, Job, JobState, Task, fence_of, new_job_id

TERMINAL = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED}


def job(**given: object) -> Job:
    plain = Job(id="job_1", model="echo", task=Task.ECHO, input={}, params={}, created_at=0, rank=0.0)
    return Job(**{name: getattr(plain, name) for name in Job.__dataclass_fields__} | given)


def test_every_state_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(JobState)


def test_exactly_the_four_ends_are_terminal() -> None:
    assert {state for state in JobState if state.terminal} == TERMINAL


def test_a_job_comes_to_an_end_from_wherever_it_is() -> None:
    for state in set(JobState) - TERMINAL:
        assert TRANSITIONS[state] & TERMINAL


def drawn_transitions() -> set[tuple[str, str]]:
    """Read the diagram of ktqueue.job: the first line is a chain, each other end hangs on one or both of its links."""
    diagram = ktqueue.job.__doc__ or ""
    assert "queued" in diagram.split("▼")[1].split("\n")[1], "the way back from 'running' ends at 'queued'"
    found = {("running", "queued")}
    for line in diagram.splitlines():
        reached = re.findall(r"▶ ([a-z]+)", line)
        if len(reached) > 1:
            found |= set(pairwise(reached))
        else:
            found |= {("running", end) for end in reached}
            found |= {("queued", end) for end in re.findall(r"▶ ([a-z]+) *◀", line)}
    return found


def test_the_diagram_draws_the_transitions() -> None:
    allowed = {(str(before), str(after)) for before, afters in TRANSITIONS.items() for after in afters}

    assert drawn_transitions() == allowed


def test_a_fence_names_the_claim_that_holds_the_job() -> None:
    assert fence_of(job(token="t", claims=2)) == Fence("job_1", "t", 2)


def test_a_job_that_nobody_holds_has_no_fence() -> None:
    with pytest.raises(ValueError, match="job_1 is queued, so no claim holds it"):
        fence_of(job())


def test_ids_are_version_7_uuids() -> None:
    for _ in range(1000):
        made = new_job_id()
        assert re.fullmatch(r"job_[0-9a-f]{32}", made)
        value = uuid.UUID(made.removeprefix("job_"))
        assert value.version == 7
        assert value.variant == uuid.RFC_4122


def test_ids_sort_by_the_millisecond_they_were_made_in() -> None:
    ids = [new_job_id() for _ in range(5000)]
    made_at = [uuid.UUID(made.removeprefix("job_")).int >> 80 for made in ids]

    assert made_at == sorted(made_at)
    assert [at for _, at in sorted(zip(ids, made_at, strict=True))] == made_at


def test_ids_of_one_millisecond_differ() -> None:
    assert len({new_job_id() for _ in range(5000)}) == 5000
