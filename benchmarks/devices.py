"""One model over two devices, and a copy of it on each, against one device and against what else would spread it.

`python -m benchmarks.devices` on a machine with two GPUs takes the model and the workload of `benchmarks.generation`;
without, a small model, 16 requests, and two stages on the CPU. Answers in float32 are compared first. Each contender
runs in a process of its own, on the same folder of weights, which is in TMPDIR.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import distributed
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from transformers import AutoModelForCausalLM

from benchmarks.figures import Figure, at_least_times, compared, show
from benchmarks.generation import decode_times
from benchmarks.generation_service import (
    IN_BULK,
    MODEL,
    WARM_UP,
    Rate,
    in_bulk,
    requests,
    save,
    service,
    through_service,
)
from benchmarks.processes import ROOT, clean_env, python
from benchmarks.random_models import random_model, shape, word_tokenizer
from benchmarks.workload import Asked, at_once, drive, workload
from ktqueue.models import ModelSpec, load_catalogue
from worker.engines.causal.engine import CausalEngine
from worker.engines.causal.fitting import quicken
from worker.engines.causal.paged import attending, prepare, unpaged
from worker.engines.causal.pipeline.cutting import Cutter
from worker.engines.causal.pipeline.stages import Staged
from worker.engines.registry import load

GPUS = torch.cuda.device_count()
DEVICES = [f"cuda:{number}" for number in range(2)] if GPUS >= 2 else ["cpu", "cpu"]
LARGE = GPUS >= 2
PADDED = 64
MICRO_BATCHES = (2, 4)
ROUNDS = 20


def spec_of(folder: Path, **entries: Any) -> ModelSpec:
    """The catalogue's entry, changed."""
    known = load_catalogue(folder / "models.toml")[MODEL]
    given = known.model_dump(exclude_unset=True) | {"alias": MODEL} | entries
    return ModelSpec.model_validate(given)


def engine_of(folder: Path, place: Sequence[str], **entries: Any) -> CausalEngine:
    """A new engine."""
    engine = load(spec_of(folder, **entries), tuple(place))
    assert isinstance(engine, CausalEngine)
    return engine


def equal(folder: Path) -> str:
    """In float32, on tokens of 64 requests: stages against one device."""
    config = shape(large=False)
    small = folder / "small"
    random_model(config, torch.device("cpu"), torch.float32).save_pretrained(small)
    word_tokenizer(config.vocab_size).save_pretrained(small)
    asked = workload(config.vocab_size, 64, range(8, 200), range(4, 65))
    entries = {"source": f"path:{small}", "dtype": "float32", "max_batch": 16, "tokens_per_step": 256, "context": 512}
    answers = []
    for place in (DEVICES[:1], DEVICES):
        engine = engine_of(folder, place, **entries, cache_gb=0.2)
        answers.append(_answers(engine, asked))
    same = sum(one == other for one, other in zip(*answers, strict=True))
    if same != len(asked):
        raise SystemExit(f"float32: {same} of {len(asked)} answers of two stages are those of one device")
    return f"float32: {same} of {len(asked)} answers of two stages are those of one device"


def _answers(engine: CausalEngine, asked: Sequence[Asked]) -> list[Any]:
    results: dict[str, Any] = {}
    waiting = [each.request(number) for number, each in enumerate(asked)]
    while len(results) < len(asked):
        while waiting and engine.capacity():
            engine.submit(waiting.pop())
        results |= {output.id: output for output in engine.step() if not hasattr(output, "offset")}
    return [results[str(number)].result["tokens"] for number in range(len(asked))]


def alone(folder: Path) -> dict[str, Any]:
    """One device."""
    engine = engine_of(folder, DEVICES[:1])
    drive(engine, at_once(requests(WARM_UP)))
    run = drive(engine, at_once(requests(IN_BULK)))
    return asdict(Rate(run.tokens, run.seconds))


def stages(folder: Path) -> dict[str, Any]:
    """Two stages; how much of the time each was at work, and what a token costs all who decode."""
    began = time.monotonic()
    engine = engine_of(folder, DEVICES)
    ready = time.monotonic() - began
    executor = engine._executor
    assert isinstance(executor, Staged)
    drive(engine, at_once(requests(WARM_UP)))
    before = executor.stages.meter.read()
    run = drive(engine, at_once(requests(IN_BULK)))
    shares = [(after - first) / run.seconds for first, after in zip(before, executor.stages.meter.read(), strict=True)]
    print(f"two stages: {run.line()}", flush=True)
    rows = 256 if LARGE else 16
    took = decode_times(engine, shape(large=LARGE).vocab_size, rows, 400 if LARGE else 64)
    decode_ms = statistics.median(took) * 1000 * len(DEVICES)
    return asdict(Rate(run.tokens, run.seconds)) | {"shares": shares, "ready": ready, "decode_ms": decode_ms}


def device_map(folder: Path) -> dict[str, Any]:
    """Transformers' `generate` in padded batches, its layers spread by ``device_map="auto"``."""
    dtype = torch.bfloat16 if LARGE else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map="auto" if LARGE else None)
    print(f"device_map: {sorted({str(device) for device in getattr(model, 'hf_device_map', {}).values()})}", flush=True)
    asked = requests(IN_BULK)
    size = PADDED if LARGE else 16
    _padded(model, asked[:4])
    began = time.perf_counter()
    for start in range(0, len(asked), size):
        _padded(model, asked[start : start + size])
    return asdict(Rate(sum(each.answer for each in asked), time.perf_counter() - began))


@torch.inference_mode()
def _padded(model: Any, asked: Sequence[Asked]) -> None:
    width = max(len(each.prompt) for each in asked)
    ids = torch.tensor([[0] * (width - len(each.prompt)) + list(each.prompt) for each in asked])
    mask = torch.tensor([[0] * (width - len(each.prompt)) + [1] * len(each.prompt) for each in asked])
    most = max(each.answer for each in asked)
    model.generate(
        ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=most,
        do_sample=False,
        eos_token_id=None,
    )


class _Module(torch.nn.Module):
    """A part as `torch.distributed.pipelining` wants it; attention reads nothing that was there before."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.part = part
        self.model = part.model

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Decode a token of each row."""
        positions = torch.full((given.shape[0],), 400, device=given.device)
        with attending(unpaged()):
            out: torch.Tensor = self.part(given, positions)
            return out


def pipelining(folder: Path, stage: int) -> dict[str, Any] | None:
    """The same layers in the same halves under `torch.distributed.pipelining`: what a token costs all who decode."""
    device = torch.device(DEVICES[stage])
    if LARGE:
        torch.cuda.set_device(device)
    store = distributed.FileStore(str(folder / "store"), 2)  # type: ignore[attr-defined]
    backend = "nccl" if LARGE else "gloo"
    distributed.init_process_group(backend, store=store, rank=stage, world_size=2, device_id=device if LARGE else None)
    cutter = Cutter(spec_of(folder))
    cut = cutter.count // 2 + 1
    part = cutter.load([range(cut), range(cut, cutter.count)][stage], device)
    prepare(part)
    quicken(part, compiled=LARGE)
    rows = 256 if LARGE else 16
    told: dict[str, float] = {}
    with torch.no_grad():
        for count in MICRO_BATCHES:
            module = _Module(part)
            schedule = ScheduleGPipe(PipelineStage(module, stage, 2, device), count)
            ids = torch.zeros(rows, dtype=torch.long, device=device)
            took = []
            for _ in range(ROUNDS):
                distributed.barrier()
                began = time.perf_counter()
                out = schedule.step(ids) if stage == 0 else schedule.step()
                if LARGE:
                    torch.cuda.synchronize()
                distributed.barrier()
                took.append(time.perf_counter() - began)
                del out
            told[str(count)] = sorted(took)[ROUNDS // 2] * 1000
    distributed.destroy_process_group()
    return told if stage == 1 else None


def _under_pipelining(folder: Path) -> dict[str, Any]:
    command = python("benchmarks.devices", "pipelining", str(folder))
    first = subprocess.Popen([*command, "0"], cwd=ROOT, env=clean_env())
    try:
        done = subprocess.run([*command, "1"], cwd=ROOT, env=clean_env(), stdout=subprocess.PIPE, check=True, text=True)
    finally:
        first.wait(60)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def copies(folder: Path) -> list[Rate]:
    """Through the service: the workload twice, on one slot, and on a slot on each device."""
    rates = []
    catalogue = (folder / "models.toml").read_text(encoding="utf-8")
    for devices in (DEVICES[:1], DEVICES):
        (folder / "models.toml").write_text(f"{catalogue}devices = {json.dumps(devices)}\n", encoding="utf-8")
        with service(folder, slots=len(devices)) as url:
            for seed in (WARM_UP, WARM_UP + 10, WARM_UP + 20):
                through_service(url, [*requests(seed), *requests(seed + 1)], in_bulk)
            rates.append(through_service(url, [*requests(IN_BULK), *requests(IN_BULK + 100)], in_bulk))
        print(f"{len(devices)} slots: {rates[-1].per_second:.0f} tokens/s", flush=True)
    (folder / "models.toml").write_text(catalogue, encoding="utf-8")
    return rates


def contend(folder: Path, parts: Sequence[str]) -> dict[str, Any]:
    """What the contenders that are named came to."""
    _in_own_process("save", folder)
    told: dict[str, Any] = {}
    for part in parts:
        if part == "copies":
            told[part] = [rate.per_second for rate in copies(folder)]
        else:
            told[part] = _under_pipelining(folder) if part == "pipelining" else _in_own_process(part, folder)
        print(part, told[part], flush=True)
    return told


def figures(told: Mapping[str, Any]) -> list[Figure]:
    """They side by side, as far as they ran."""

    def rates(part: str) -> list[float]:
        return [told[part]["tokens"] / told[part]["seconds"]]

    shown: list[Figure] = []
    if {"stages", "device_map"} <= told.keys():
        what = 'two stages against device_map="auto", tokens/s'
        shown.append(at_least_times(what, rates("stages"), rates("device_map"), 1.8))
    if {"stages", "alone"} <= told.keys():
        shown.append(compared("two stages against one device, tokens/s", rates("stages"), rates("alone")))
    if "stages" in told:
        # m/(m+s-1) for two micro-batches over two stages.
        busy, what = min(told["stages"]["shares"]), "the less busy stage at work, of 2/3 of the time"
        shown.append(at_least_times(what, [busy * 100], [200 / 3], 0.9))
    if {"stages", "pipelining"} <= told.keys():
        what = "a token for all, ms, against torch.distributed.pipelining"
        shown.append(compared(what, [told["stages"]["decode_ms"]], [min(told["pipelining"].values())]))
    if "copies" in told:
        one, two = told["copies"]
        shown.append(at_least_times("a slot on each of two devices against one, tokens/s", [two], [one], 1.9))
    return shown


def _in_own_process(part: str, folder: Path) -> Any:
    command = python("benchmarks.devices", part, str(folder))
    done = subprocess.run(command, cwd=ROOT, env=clean_env(), stdout=subprocess.PIPE, check=True, text=True)
    *said, last = done.stdout.splitlines() or ["null"]
    for line in said:
        print(line, flush=True)
    return json.loads(last)


def main() -> None:
    """Measure everything, or what is named; or be one of the parts that this starts by itself."""
    alones: Mapping[str, Callable[[Path], Any]] = {
        "save": save,
        "equal": equal,
        "alone": alone,
        "stages": stages,
        "device_map": device_map,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["equal", "stages", "alone", "device_map", "pipelining", "copies"])
    given = parser.parse_args()
    name, *rest = given.parts
    if rest and Path(rest[0]).is_dir():
        told = pipelining(Path(rest[0]), int(rest[1])) if name == "pipelining" else alones[name](Path(rest[0]))
        print(json.dumps(told))
        return
    with TemporaryDirectory(prefix="ktq-bench-") as folder:
        show(figures(contend(Path(folder), given.parts)))


if __name__ == "__main__":
    main()
