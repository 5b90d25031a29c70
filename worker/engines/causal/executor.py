"""Runs plans: launch a step, and read what it drew later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from worker.engines.causal.flight import Fetching, Flight
from worker.engines.causal.sampler import Entry
from worker.engines.causal.scheduler import Plan
from worker.engines.causal.stage import Stage
from worker.engines.causal.step import StepWriter


class Executor(Protocol):
    """Whatever holds the model."""

    def launch(self, plan: Plan, entries: Sequence[Entry]) -> Flight:
        """Start a step; ``entries`` are the wishes of those that it admits."""

    def release(self, slot: int) -> None:
        """A slot is free."""


class OneDevice:
    """A model that is on one device whole."""

    def __init__(self, writer: StepWriter, stage: Stage) -> None:
        self._writer = writer
        self._stage = stage

    def launch(self, plan: Plan, entries: Sequence[Entry]) -> Flight:
        """Start a step."""
        self._stage.admit(entries)
        step = self._writer.write(plan)
        try:
            _, drawn = self._stage.run(step)
        except Exception:
            self._writer.forget()
            raise
        assert drawn is not None
        return Fetching(drawn, len(step.drawing))

    def release(self, slot: int) -> None:
        """A slot is free."""
        self._stage.release([slot])
