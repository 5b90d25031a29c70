"""The stages of a model on a GPU, one after the other in one process: what is replayed is what the whole model says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from ktqueue.models import ModelSpec
from ktqueue.room import Room
from tests.support.engines import Run, generate
from tests.support.tiny_models import byte_tokenizer, save_causal, tiny_llama
from worker.engines.causal.blocks import Blocks
from worker.engines.causal.cache import Size
from worker.engines.causal.engine import CausalEngine
from worker.engines.causal.fitting import Fitting
from worker.engines.causal.flight import Fetching, Flight
from worker.engines.causal.pipeline.cutting import Cutter
from worker.engines.causal.pipeline.weighing import weigh
from worker.engines.causal.prompt import PromptReader
from worker.engines.causal.sampler import Entry
from worker.engines.causal.scheduler import Plan, Scheduler
from worker.engines.causal.stage import Stage
from worker.engines.causal.step import StepWriter
from worker.engines.causal.voice import voice_of
from worker.engines.registry import load

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
CUDA = torch.device("cuda", 0)
WORDS = "a brown fox and the lazy dog went over hills to see what is there for tea"
CONTEXT, SLOTS = 64, 8


class Chain:
    """Runs each step in all stages."""

    def __init__(self, writer: StepWriter, stages: Sequence[Stage]) -> None:
        self._writer = writer
        self._stages = stages

    def launch(self, plan: Plan, entries: Sequence[Entry]) -> Flight:
        step, given = self._writer.write(plan), None
        for stage in self._stages:
            stage.admit(entries)
            given, drawn = stage.run(step, given)
        assert drawn is not None
        draws = len(step.drawing)
        self._stages[0].know(torch.from_numpy(step.drawing).to(CUDA), drawn.tokens[:draws])
        return Fetching(drawn, draws)

    def release(self, slot: int) -> None:
        for stage in self._stages:
            stage.release([slot])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stages_say_what_the_whole_model_says(tmp_path: Path, dtype: str) -> None:
    save_causal(tiny_llama(), tmp_path)
    tokenizer = byte_tokenizer()
    spec = ModelSpec.model_validate(
        {
            "alias": "m",
            "engine": "causal",
            "source": f"path:{tmp_path}",
            "dtype": dtype,
            "max_batch": SLOTS,
            "cache_gb": 0.01,
            "context": CONTEXT,
        }
    )
    stages = []
    for layers in (range(1), range(1, 2), range(2, 3)):
        fitting = Fitting(spec, Cutter(spec).load(layers, CUDA), goes_on=False)
        size = Size(65, fitting.attention.block_size)
        fitting.try_largest_step(CONTEXT)
        stages.append(fitting.stage(size, CONTEXT))
        stages[-1].warm_up()
    chained = CausalEngine(
        Scheduler(Blocks(size.blocks, size.block_size), slots=SLOTS, budget=256, parts=2),
        Chain(StepWriter(slots=SLOTS, block_size=size.block_size), stages),
        PromptReader(tokenizer, CONTEXT),
        voice_of(tokenizer, frozenset()),
        room=Room(SLOTS, size.tokens, size.block_size),
        vocabulary=fitting.vocabulary,
        ahead=2,
    )
    asked = [generate(str(n), WORDS[n : 2 * n + 5], max_tokens=20, ignore_eos=True, logprobs=True) for n in range(20)]
    answers = []
    for engine in (chained, load(spec, ("cuda:0",))):
        run = Run(engine)
        for request in asked:
            while not engine.capacity():
                run.step()
            run.submit(request)
            run.step()
        run.end()
        answers.append({request.id: run.result(request.id) for request in asked})
    for request in asked:
        apart, whole = (each[request.id] for each in answers)
        if dtype == "float32":
            assert apart["tokens"] == whole["tokens"]
        # The first token has the same past in both.
        assert apart["logprobs"][0]["logprob"] == pytest.approx(whole["logprobs"][0]["logprob"], abs=0.2)


def test_layers_are_weighed_on_the_device(tmp_path: Path) -> None:
    save_causal(tiny_llama(), tmp_path)
    spec = ModelSpec(alias="m", engine="causal", source=f"path:{tmp_path}", dtype="bfloat16", cache_gb=0.01)
    cutter = Cutter(spec)
    times = weigh(spec, cutter, CUDA, rows=4)
    assert len(times.layers) == cutter.count
    assert min(*times.layers, times.before, times.after) > 0
