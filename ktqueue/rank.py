"""Which of a tenant's jobs runs next: the one with the least slack, so the smaller rank runs sooner. Pure.

A job's slack ends when it must start to end by its deadline. Least slack first meets all deadlines that can be met by
one server (Mok 1983). A job without a deadline has ``DEFAULT_SLACK_MS`` from when it is due, and none has more: a
deadline moves a job forward, never back. A rank is fixed when the job comes, so a job is overtaken within its tenant
only by what comes within its slack, and nothing starves.
"""

from __future__ import annotations

HIGHEST_PRIORITY = 9
DEFAULT_PRIORITY = 5
DEFAULT_SLACK_MS = 300_000


def rank(due_at: int, deadline_at: int | None = None, run_ms: float = 0.0) -> float:
    """The rank of a job that is due at ``due_at`` and may run for ``run_ms``; instants in Unix ms."""
    slack_ends = due_at + DEFAULT_SLACK_MS
    return float(slack_ends if deadline_at is None else min(slack_ends, deadline_at - int(run_ms)))
