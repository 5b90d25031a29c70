"""Steps, and what came of them, as messages between a slot and its stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from worker.engines.causal.flight import Landed
from worker.engines.causal.sampler import Entry
from worker.engines.causal.sampling import Sampling
from worker.engines.causal.step import Step


@dataclass(frozen=True, slots=True)
class Order:
    """A step as stages are told of it.

    ``number`` counts up from 1. Those that decode in it need what was drawn in the steps up to ``needs``. ``released``
    slots are free before those ``admitted`` take theirs.
    """

    number: int
    needs: int
    released: Sequence[int]
    admitted: Sequence[Entry]
    step: Step

    def message(self) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
        """For `Channel.send`."""
        head = {
            "number": self.number,
            "needs": self.needs,
            "released": list(self.released),
            "admitted": [_entry_to_json(entry) for entry in self.admitted],
        }
        return head, [np.ascontiguousarray(getattr(self.step, each.name)) for each in fields(Step)]

    @classmethod
    def of(cls, message: dict[str, Any], arrays: Sequence[np.ndarray[Any, Any]]) -> Order:
        """What `message` made."""
        admitted = [_entry_of(entry) for entry in message["admitted"]]
        return cls(message["number"], message["needs"], message["released"], admitted, Step(*arrays))


def landed_message(number: int, landed: Landed) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
    """What the order of this ``number`` drew, for `Channel.send`."""
    present = {each.name: getattr(landed, each.name) for each in fields(Landed)}
    present = {name: array for name, array in present.items() if array is not None}
    return {"number": number, "landed": list(present)}, list(present.values())


def landed_of(message: dict[str, Any], arrays: Sequence[Any]) -> Landed:
    """What `landed_message` made."""
    return Landed(**dict(zip(message["landed"], arrays, strict=True)))


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    sampling = asdict(entry.sampling) | {"stop_token_ids": list(entry.sampling.stop_token_ids)}
    return {
        "slot": entry.slot,
        "sampling": sampling,
        "seed": entry.seed,
        "prompt": entry.prompt,
        "answer": entry.answer,
        "end_tokens": list(entry.end_tokens),
    }


def _entry_of(told: dict[str, Any]) -> Entry:
    wishes = told["sampling"]
    sampling = Sampling(
        **wishes
        | {
            "logit_bias": tuple((token, bias) for token, bias in wishes["logit_bias"]),
            "stop": tuple(wishes["stop"]),
            "stop_token_ids": frozenset(wishes["stop_token_ids"]),
        }
    )
    return Entry(**told | {"sampling": sampling, "end_tokens": frozenset(told["end_tokens"])})
