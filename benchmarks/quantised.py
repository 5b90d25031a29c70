"""What quantised weights are worth here: memory, and how long a step that only decodes takes.

``python -m benchmarks.quantised SOURCE …``, each as `source` in models.toml has it, such as ``path:FOLDER``. Each is
loaded in a process of its own, as a worker does. Times are medians of the wall clock.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

import psutil
import torch

from ktqueue.job import Task
from ktqueue.models import ModelSpec
from worker.engines.base import Request
from worker.engines.causal.engine import CausalEngine
from worker.engines.registry import load

PROMPT = "Tell me a long story about a fox and a lazy dog who live by the sea."
ROWS = (1, 16)
STEPS = 40
_WARM = 8
"""Steps that are not counted: those that read prompts, and the first of a kind."""


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--one", action="store_true", help="in this process")
    asked = parser.parse_args()
    if asked.one:
        print(measure(asked.sources[0], asked.dtype, asked.device), flush=True)
        return
    for source in asked.sources:
        command = [sys.executable, "-m", "benchmarks.quantised", source, "--one"]
        subprocess.run([*command, "--dtype", asked.dtype, "--device", asked.device], check=True, timeout=1800)


def measure(source: str, dtype: str, device: str) -> str:
    """Load one, and time it."""
    entries: dict[str, Any] = {"alias": "m", "engine": "causal", "source": source, "dtype": dtype, "device": device}
    spec = ModelSpec.model_validate(entries | {"max_batch": max(ROWS), "draft_tokens": 0, "cache_gb": 0.5})
    before = _taken()
    began = time.perf_counter()
    engine = load(spec, spec.places[0])
    loaded = time.perf_counter() - began
    assert isinstance(engine, CausalEngine)
    weights = _taken() - before
    times = ", ".join(f"{rows} rows {_step_seconds(engine, rows) * 1000:.1f} ms" for rows in ROWS)
    return f"{source} {dtype}: loaded in {loaded:.1f} s, {weights / 1e6:.0f} MB; a step of {times}"


def _taken() -> int:
    """Bytes: of the GPU by this process's tensors, or of memory by the process."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    rss: int = psutil.Process().memory_info().rss
    return rss


def _step_seconds(engine: CausalEngine, rows: int) -> float:
    wish = {"max_tokens": _WARM + STEPS + 4, "ignore_eos": True}
    for number in range(rows):
        engine.submit(Request(str(number), Task.GENERATE, {"prompt": PROMPT[number:]}, wish))
    for _ in range(_WARM):
        engine.step()
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - began)
    for number in range(rows):
        engine.cancel(str(number))
    return statistics.median(times)


if __name__ == "__main__":
    main()
