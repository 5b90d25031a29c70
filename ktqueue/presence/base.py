"""Presence: slots and workers say that they live, where, and what they hold; who fell silent is forgotten.

Any method may raise LanesUnavailable.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Protocol

import orjson

from ktqueue.instance import Instance
from ktqueue.room import Room

MISSED = 4
"""So many times a slot may fail to tell before it is taken for gone."""


class SlotState(StrEnum):
    """STARTING loads its model. STOPPING was told to leave, and takes no more jobs."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Pulse:
    """How a slot did since it told before, and how it is now.

    ``busy`` is the part of the time in steps (0-1), ``batch`` the mean of the jobs in a step, 0 if there was none;
    ``blocks`` are those of its cache, ``device_…`` the memory of its GPUs, whoever uses it. What it has none of is 0.
    """

    prompt_tokens_s: float = 0.0
    generated_tokens_s: float = 0.0
    busy: float = 0.0
    batch: float = 0.0
    blocks: int = 0
    blocks_used: int = 0
    resident_bytes: int = 0
    device_bytes: int = 0
    device_used_bytes: int = 0


_PULSE = frozenset(field.name for field in fields(Pulse))


@dataclass(frozen=True, slots=True)
class Slot:
    """One child process of a worker. ``name`` is the one that attempts tell; ``running`` counts jobs in its engine.

    ``device`` is for people. ``since`` is when it was ready, Unix ms; until then its ``room`` is not known either.
    ``worker`` is its worker's name. ``number`` tells the slots of one worker's lane apart, from 0: the one in place of
    one that died has its number, and its device. ``instances`` are the servers that it passes its jobs on to.
    """

    name: str
    model: str
    device: str
    room: Room | None
    running: int
    since: int | None
    number: int = 0
    instances: tuple[Instance, ...] = ()
    pulse: Pulse = Pulse()
    worker: str = ""
    state: SlotState = SlotState.READY

    @property
    def host(self) -> str:
        """The machine's name."""
        return self.name.rsplit(":", 3)[0]

    @property
    def pid(self) -> int | None:
        """The process on that machine; None if the name does not tell."""
        parts = self.name.rsplit(":", 3)
        return int(parts[1]) if len(parts) == 4 and parts[1].isdigit() else None

    def to_json(self) -> bytes:
        """For other processes."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, told: str | bytes) -> Slot:
        """What `to_json` made; what another version of us added to it, or left out, is passed over."""
        known = orjson.loads(told)
        pulse = Pulse(**{name: value for name, value in known.get("pulse", {}).items() if name in _PULSE})
        room = None if known["room"] is None else Room.from_json(orjson.dumps(known["room"]))
        return cls(
            known["name"],
            known["model"],
            known["device"],
            room,
            known["running"],
            known["since"],
            number=known.get("number", 0),
            worker=known.get("worker", ""),
            state=SlotState(known.get("state", SlotState.READY)),
            instances=tuple(Instance.from_told(each) for each in known.get("instances", ())),
            pulse=pulse,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """A slot as it told last, ``age_ms`` ago."""

    slot: Slot
    age_ms: int


@dataclass(frozen=True, slots=True)
class Worker:
    """The parent of lanes' slots, by the name that operators know it by.

    ``models`` are those that it is to serve, ``offers`` those that its catalogue has.
    """

    name: str
    host: str
    models: tuple[str, ...]
    offers: tuple[str, ...]

    def to_json(self) -> bytes:
        """For other processes."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, told: str | bytes) -> Worker:
        """What `to_json` made; what another version of us added to it is passed over."""
        known = orjson.loads(told)
        return cls(known["name"], known["host"], tuple(known["models"]), tuple(known["offers"]))


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """A worker as it told last, ``age_ms`` ago."""

    worker: Worker
    age_ms: int


class Presence(Protocol):
    """The slots that live, and their workers."""

    def tell(self, slot: Slot, *, for_ms: int) -> None:
        """Leave word of a slot, in place of what it told before; it is forgotten after ``for_ms``."""

    def slots(self) -> list[Seen]:
        """Every slot that told of late, by model and name."""

    def tell_worker(self, worker: Worker, *, for_ms: int) -> None:
        """Leave word of a worker, in place of what it told before; it is forgotten after ``for_ms``."""

    def workers(self) -> list[SeenWorker]:
        """Every worker that told of late, by name."""
