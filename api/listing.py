"""Which jobs a list asks for, and its pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import orjson
from werkzeug.datastructures import MultiDict

from api import cursor
from api.ids import JOB_ID
from api.inputs import MOST_METADATA
from api.query import instant, integer, prefixed, refuse, single
from ktqueue.job import Job, JobState
from ktqueue.representation import job_body
from ktqueue.store.base import JobQuery

FILTERS = ("state", "model", "id", "created_from", "created_to", "limit", "cursor")
METADATA = "metadata."
MOST_IDS = 100
MOST_JOBS = 200
DEFAULT_JOBS = 50
STRIDE = 26
"""So many jobs are in memory at once: each may have a result of megabytes."""
PAGE_BYTES = 8_000_000
"""A page ends early once it is this large."""


def job_query(given: MultiDict[str, str], tenant: str) -> JobQuery:
    """Jobs of ``tenant``, from query parameters. Raises BrokenRules; Malformed for a cursor that is none."""
    after = single(given, "cursor")
    return JobQuery(
        tenant=tenant,
        ids=_ids(given),
        states=_states(given),
        model=single(given, "model"),
        created_from=instant(given, "created_from"),
        created_to=instant(given, "created_to"),
        metadata=_metadata(given),
        before=None if after is None else cursor.decode(after, JOB_ID),
        limit=integer(given, "limit", 1, MOST_JOBS, default=DEFAULT_JOBS),
    )


def page(search: Callable[[JobQuery], Sequence[Job]], query: JobQuery) -> bytes:
    """One page as JSON: at most ``query.limit`` jobs, and fewer when they are large."""
    items: list[orjson.Fragment] = []
    size, last, more = 0, query.before, True
    while more:
        # One more than fits is asked for: if it is there, there is a next page.
        wanted = min(STRIDE, query.limit + 1 - len(items))
        jobs = search(replace(query, before=last, limit=wanted))
        more = len(jobs) == wanted
        for job in jobs:
            if len(items) == query.limit or size > PAGE_BYTES:
                return _encoded(items, cursor.encode(str(last)))
            item = orjson.dumps(job_body(job))
            items.append(orjson.Fragment(item))
            size, last = size + len(item), job.id
    return _encoded(items, None)


def _encoded(items: list[orjson.Fragment], next_cursor: str | None) -> bytes:
    return orjson.dumps({"object": "list", "data": items, "next_cursor": next_cursor})


def _ids(given: MultiDict[str, str]) -> list[str]:
    ids = given.getlist("id")
    if len(ids) > MOST_IDS:
        refuse("id", f"must be given at most {MOST_IDS} times")
    if not all(JOB_ID.fullmatch(job_id) for job_id in ids):
        refuse("id", "must be the id of a job: job_ and 32 hexadecimal digits")
    return ids


def _metadata(given: MultiDict[str, str]) -> Mapping[str, str]:
    wanted = prefixed(given, METADATA)
    if len(wanted) > MOST_METADATA:
        # No job has more, and a database takes only so many conditions.
        refuse(f"{METADATA}KEY", f"must be given for at most {MOST_METADATA} keys")
    return wanted


def _states(given: MultiDict[str, str]) -> list[JobState]:
    known = [state.value for state in JobState]
    states = given.getlist("state")
    if not set(states) <= set(known):
        refuse("state", f"must be one of: {', '.join(known)}")
    return [JobState(state) for state in states]
