"""What the API answers operators, as frozen values."""

from __future__ import annotations

from ktqueue.client.values import Value


class Purge(Value):
    """How many queued jobs a purge cancelled, or would cancel (``dry_run``), and how many are still to be."""

    model: str
    dry_run: bool
    jobs: int
    remaining: int
