"""A model in stages, each a process of its own: its tokens are those of the whole model."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    NanoChatConfig,
    NanoChatForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ktqueue.errors import ConfigurationError
from ktqueue.models import ModelSpec
from tests.support.engines import Run, causal_engine, generate, greedy
from tests.support.stages import staged, stages_of
from tests.support.tiny_models import (
    VOCABULARY,
    byte_tokenizer,
    save_causal,
    tiny_gemma3,
    tiny_granite,
    tiny_llama,
    tiny_mistral,
    tiny_moe,
    tiny_qwen3,
)
from worker.engines.base import Request
from worker.engines.causal.blocks import Blocks
from worker.engines.causal.flight import Landed
from worker.engines.causal.paged import attending, prepare, unpaged
from worker.engines.causal.part import Part
from worker.engines.causal.pipeline.cutting import Cutter
from worker.engines.causal.pipeline.messages import Order, landed_message, landed_of
from worker.engines.causal.pipeline.stages import Staged
from worker.engines.causal.pipeline.wire import Channel
from worker.engines.causal.sampler import Entry
from worker.engines.causal.sampling import sampling_of
from worker.engines.causal.scheduler import Scheduler, Sequence
from worker.engines.causal.step import Step, StepWriter
from worker.engines.trouble import DeviceLost

WORDS = "a brown fox and the lazy dog went over hills to see what is there for tea"
CPU = torch.device("cpu")


def asked(count: int, seed: int = 0, **params: Any) -> list[Request]:
    """Of many lengths; half of them begin alike."""
    source = random.Random(seed)
    return [
        generate(
            f"r{number}",
            WORDS[: source.randint(1, 40)] if number % 2 else WORDS[source.randint(0, 20) :][:30],
            max_tokens=source.randint(1, 24),
            **params,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(("make", "devices"), [(tiny_llama, ["cpu"] * 3), (tiny_gemma3, ["cpu"] * 2)])
def test_sixty_four_mixed_requests_get_the_tokens_of_the_whole_model(
    tmp_path: Path, make: Any, devices: list[str]
) -> None:
    """Arrivals, chunks, pre-emption, shared beginnings and cancellation, over stages that are all at work."""
    model, tokenizer = make(), byte_tokenizer()
    save_causal(model, tmp_path)
    requests = asked(64)
    # Of what a token takes in all layers there is room for some 200 of them.
    room = 200 * sum(shape.bytes_per_token for shape in prepare(Part(make()))) / 1e9
    with staged(tmp_path, tokenizer, devices, max_batch=8, tokens_per_step=32, cache_gb=room) as engine:
        run, leaving = Run(engine), random.Random(1)
        for number, request in enumerate(requests):
            while engine.capacity() == 0:
                run.step()
            run.submit(request)
            if leaving.random() < 0.1:
                run.step()
                if request.id in run.inside:
                    run.cancel(request.id)
            if number % 3:
                run.step()
        run.end()
        assert engine._scheduler.preempted > 0
        assert all(seconds > 0 for seconds in stages_of(engine).meter.read())
    assert len(run.finished) > 48
    for request in requests:
        if request.id in run.finished:
            expected = greedy(model, tokenizer(request.input["prompt"]).input_ids, request.params["max_tokens"])
            assert run.result(request.id)["tokens"] == expected


def test_wishes_logprobs_and_errors_are_those_of_one_device(tmp_path: Path) -> None:
    model, tokenizer = tiny_llama(), byte_tokenizer()
    save_causal(model, tmp_path)
    requests = [
        generate("hot", "tea", max_tokens=20, temperature=0.9, top_p=0.9, seed=7, repetition_penalty=1.2),
        generate("told", "fox", max_tokens=9, top_logprobs=3),
        generate("bias", "dog", max_tokens=9, logit_bias={"9": 100.0}, stop_token_ids=[5]),
        generate("two", "lazy", max_tokens=9, temperature=1.0, seed=3, n=2, stop=["zz"]),
        generate("long", "x" * 500, max_tokens=3),
    ]
    with staged(tmp_path, tokenizer, max_batch=8) as engine:
        apart = Run(engine, *requests).end()
    whole = Run(causal_engine(model, tokenizer, max_batch=8), *requests).end()
    assert apart.errors.keys() == whole.errors.keys() == {"long"}
    assert apart.finished.keys() == whole.finished.keys()
    for job_id, finished in whole.finished.items():
        assert apart.finished[job_id].result.keys() == finished.result.keys()
        assert apart.finished[job_id].usage == finished.usage
        if job_id != "two":
            assert apart.finished[job_id].result["tokens"] == finished.result["tokens"]
    assert apart.finished["two"].result["choices"] == whole.finished["two"].result["choices"]


def test_an_answer_that_nobody_waits_for_is_given_to_nobody_else(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save_causal(llama, tmp_path)
    with staged(tmp_path, tokenizer, max_batch=8) as engine:
        run = Run(engine, *asked(2))
        run.step()
        engine._flights.popleft()
        with pytest.raises(DeviceLost, match="step 1 came for step 2"):
            run.end()


def test_what_was_drawn_is_taken_up_though_nobody_decodes_with_it() -> None:
    """Answers of one token: else the first stage would keep what it heard of every step, for ever."""

    class Told:
        def __init__(self) -> None:
            self.needs: list[int] = []

        def tell(self, message: dict[str, Any], _: list[Any]) -> None:
            self.needs.append(message["needs"])

        def hear_last(self) -> tuple[dict[str, Any], list[Any]]:
            return {"number": len(self.needs), "landed": ["tokens"]}, [np.array([5])]

    scheduler = Scheduler(Blocks(9, 4), slots=2, budget=8, parts=2)
    stages: Any = Told()
    executor = Staged(stages, StepWriter(slots=2, block_size=4), slots=2)
    for _ in range(4):
        sequence = Sequence([1, 2, 3], 4)
        scheduler.add(sequence)
        assert executor.launch(scheduler.plan(), []).land().token(0) == 5
        scheduler.remove(sequence)
    assert stages.needs == [0, 1, 2, 3]


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_that_dies_takes_the_engine_down_and_leaves_nobody(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, stage: int
) -> None:
    save_causal(llama, tmp_path)
    with staged(tmp_path, tokenizer, max_batch=8) as engine:
        run = Run(engine, *asked(8))
        run.step()
        processes = stages_of(engine)._processes
        processes[stage].kill()
        with pytest.raises(DeviceLost, match=r"stage \d on cpu"):
            run.end()
    assert not any(psutil.pid_exists(process.pid) for process in processes)


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen3, tiny_gemma3, tiny_mistral, tiny_moe, tiny_granite])
def test_parts_of_a_model_one_after_the_other_are_the_model(
    make: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    save_causal(make(), tmp_path)
    spec = ModelSpec(alias="m", engine="causal", source=f"path:{tmp_path}")
    ids, positions = torch.arange(7), torch.arange(7)
    count = Cutter(spec).count
    cuts = [range(1), range(1, 2), range(2, count)] if count > 2 else [range(1), range(1, count)]
    parts = [Cutter(spec).load(layers, CPU) for layers in cuts]
    whole = Cutter(spec).load(range(count), CPU)
    for part in (*parts, whole):
        prepare(part)
    weights = [sum(each.numel() for each in part.model.parameters()) for part in (*parts, whole)]
    assert all(each < weights[-1] for each in weights[:-1])
    with torch.inference_mode(), attending(unpaged()):
        given = ids
        for part in parts:
            given = part(given, positions)
        assert torch.equal(given, whole(ids, positions))


def tiny_gpt2() -> PreTrainedModel:
    """Its layers are elsewhere than others'."""
    model: PreTrainedModel = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_layer=2, n_head=2))
    return model


def tiny_nanochat() -> PreTrainedModel:
    """Its norm is before the layers, too."""
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    return NanoChatForCausalLM(NanoChatConfig(vocab_size=VOCABULARY, num_key_value_heads=2, **sizes))


@pytest.mark.parametrize(("make", "name"), [(tiny_gpt2, "gpt2"), (tiny_nanochat, "nanochat")])
def test_models_whose_parts_would_compute_something_else_are_refused(
    make: Callable[[], PreTrainedModel], name: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    save_causal(make(), tmp_path)
    with (
        pytest.raises(ConfigurationError, match=f"model 'm': {name} models can't be spread over several devices"),
        staged(tmp_path, tokenizer),
    ):
        pass


def test_what_can_not_be_spread_says_so(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save_causal(tiny_llama(), tmp_path)
    with (
        pytest.raises(ConfigurationError, match="devices: a model of 3 layers can't be 4 stages"),
        staged(tmp_path, tokenizer, ["cpu"] * 4),
    ):
        pass
    with (
        pytest.raises(ConfigurationError, match="0 MB are left for keys and values"),
        staged(tmp_path, tokenizer, cache_gb=1e-7),
    ):
        pass


def test_messages_come_through_as_they_were() -> None:
    here, there = (Channel(end) for end in socket.socketpair())
    numbers = iter(range(1000))
    arrays = [np.array([next(numbers) for _ in range(4)]) for _ in range(9)]
    step = Step(*[*arrays, np.arange(6).reshape(3, 2), np.empty((2, 0), dtype=np.int64)])
    sampling = sampling_of({"temperature": 0.5, "stop": ["x", "y"], "logit_bias": {"3": -1.5}, "stop_token_ids": [4]})
    order = Order(7, 5, [1, 2], [Entry(3, sampling, 2**62, [1, 2], [3], frozenset([2]))], step)
    here.send(*order.message())
    told = Order.of(*there.receive())
    assert told.admitted == order.admitted
    assert (told.number, told.needs, told.released) == (7, 5, [1, 2])
    for name in Step.__slots__:
        assert np.array_equal(getattr(told.step, name), getattr(step, name))
    landed = Landed(np.array([1, -1]), np.array([-0.5, 0.0], dtype=np.float32))
    there.send(*landed_message(7, landed))
    back = landed_of(*here.receive())
    assert (back.token(0), back.token(1), back.top_tokens) == (1, None, None)
    assert back.chances(0, 2) == landed.chances(0, 2)
    there.close()
    with pytest.raises(EOFError):
        here.receive()
    here.close()
