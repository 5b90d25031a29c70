"""How long each layer takes on this stage's device, and what comes before and after all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ktqueue.models import ModelSpec
from worker.engines.causal.cache import Size
from worker.engines.causal.fitting import Fitting
from worker.engines.causal.part import Part
from worker.engines.causal.pipeline.cutting import Cutter
from worker.engines.causal.pipeline.partition import Times
from worker.engines.causal.step import Step

_ALIKE = 4
"""Layers that are timed one after the other, so that what a step takes besides them weighs little."""
_CONTEXT = 400
"""Tokens that attention reads of each sequence."""
_ROUNDS = 9


@torch.inference_mode()
def weigh(spec: ModelSpec, cutter: Cutter, device: torch.device, *, rows: int) -> Times:
    """In seconds, with random weights, for steps in which so many ``rows`` decode."""
    nothing = range(0)
    kinds = cutter.kinds()
    of_kind = {}
    for kind in set(kinds):
        part = cutter.sketch(range(kind, kind + 1), device, first=False, last=False)
        _repeat(part, _ALIKE)
        of_kind[kind] = _seconds(spec, part, rows) / _ALIKE
    return Times(
        [of_kind[kind] for kind in kinds],
        before=_seconds(spec, cutter.sketch(nothing, device, first=True, last=False), rows),
        after=_seconds(spec, cutter.sketch(nothing, device, first=False, last=True), rows),
    )


def _repeat(part: Part, times: int) -> None:
    """The same layers again and again."""
    base: Any = part.model.base_model
    config = part.model.config.get_text_config()
    base.layers = torch.nn.ModuleList([layer for _ in range(times) for layer in base.layers])
    config.num_hidden_layers *= times
    if types := getattr(config, "layer_types", None):
        config.layer_types = types * times


def _seconds(spec: ModelSpec, part: Part, rows: int) -> float:
    """The median of a step, as it will be run."""
    fitting = Fitting(spec, part, goes_on=False)
    block_size = fitting.attention.block_size
    each = -(-_CONTEXT // block_size)
    stage = fitting.stage(Size(1 + rows * each, block_size), _CONTEXT)
    step = _step(rows, each, block_size)
    given = None if part.first else part.inputs(rows)
    return _median(lambda: stage.run(step, given), part.device)


def _step(rows: int, each: int, block_size: int) -> Step:
    """Sequences of so many blocks ``each`` draw one more token."""
    everyone, ends = np.arange(rows), np.full(rows, _CONTEXT)
    tables = 1 + np.arange(rows * each)
    none = np.empty(0, dtype=np.int64)
    return Step(
        ids=np.zeros(rows, dtype=np.int64),
        positions=ends - 1,
        cells=(1 + everyone * each + (_CONTEXT - 1) // block_size) * block_size + (_CONTEXT - 1) % block_size,
        starts=np.arange(rows + 1),
        lengths=ends,
        slots=everyone,
        owners=everyone,
        keep=everyone,
        drawing=everyone,
        news=np.stack([(tables - 1) // each, (tables - 1) % each, tables]),
        copies=none.reshape(2, 0),
    )


def _median(run: Callable[[], object], device: torch.device) -> float:
    for _ in range(2):
        run()
    if device.type == "cuda":
        # The host must not be what is timed: many steps are launched before the first is done.
        torch.cuda.synchronize(device)
        began, *ended = (torch.cuda.Event(enable_timing=True) for _ in range(_ROUNDS + 1))
        began.record()
        for event in ended:
            run()
            event.record()
        torch.cuda.synchronize(device)
        pairs = zip([began, *ended], ended, strict=False)
        milliseconds = [float(before.elapsed_time(after)) for before, after in pairs]
        return statistics.median(milliseconds) / 1000
    return statistics.median(_wall(run) for _ in range(_ROUNDS))


def _wall(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
