"""Engines whose models are spread over processes, and what becomes of those."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ktqueue.models import ModelSpec
from worker.engines.causal.engine import CausalEngine
from worker.engines.causal.pipeline.building import build_staged
from worker.engines.causal.pipeline.stages import Staged, Stages


@contextmanager
def staged(
    folder: Path, tokenizer: PreTrainedTokenizerBase, devices: Sequence[str] = ("cpu", "cpu"), **entries: Any
) -> Iterator[CausalEngine]:
    """An engine of the model in ``folder`` with a stage on each device; its processes are gone afterwards."""
    given = {"alias": "m", "engine": "causal", "source": f"path:{folder}", "threads": 1, "cache_gb": 0.001} | entries
    engine = build_staged(ModelSpec.model_validate(given), devices, tokenizer)
    try:
        yield engine
    finally:
        stages_of(engine).close()


def stages_of(engine: CausalEngine) -> Stages:
    executor = engine._executor
    assert isinstance(executor, Staged)
    return executor.stages
