"""An instance that a slot passes its jobs on to, as it is told to others: a value. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ktqueue.room import Room

ELSEWHERE = "elsewhere"
"""The state of one that another slot uses."""
STATES = ("new", "closed", "open", "half-open", "warming", "resting", ELSEWHERE)


@dataclass(frozen=True, slots=True)
class Instance:
    """``running`` requests of ``work`` tokens are there now; it takes what its ``room`` holds.

    ``state`` is 'closed' for one that is well; 'half-open' and 'warming' for one that was not, and takes less; 'open',
    'resting' and 'new' for one that takes nothing, for ``rests_s`` where that is known; 'elsewhere' for another's.
    """

    url: str
    kind: str
    room: Room
    running: int
    work: int
    state: str
    rests_s: float | None

    @classmethod
    def from_told(cls, told: Mapping[str, Any]) -> Instance:
        """What another process made of one."""
        room = Room.from_json(orjson.dumps(told["room"]))
        return cls(told["url"], told["kind"], room, told["running"], told["work"], told["state"], told.get("rests_s"))
