"""The engines on CUDA: what they say is what they say on a CPU, or what transformers says on the same device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from ktqueue.errors import ConfigurationError
from ktqueue.models import ModelSpec
from tests.support.engines import Run, assert_chances_of, causal_engine, embed, generate, greedy, loaded
from tests.support.tiny_models import (
    byte_tokenizer,
    save_causal,
    save_encoder,
    tiny_gemma3,
    tiny_llama,
    tiny_mistral,
    tiny_moe,
    tiny_qwen3,
)
from worker.engines.causal.engine import CausalEngine
from worker.engines.causal.executor import OneDevice
from worker.engines.device import cache_bytes

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

PROMPTS = ["tea", "a brown fox", "over the hills and far away", "x", "to see what is there", "lazy dogs"]


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen3, tiny_gemma3])
def test_tokens_are_those_of_generate(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    torch.nn.Module.to(model, "cuda")
    tokenizer = byte_tokenizer()
    run = Run(causal_engine(model, tokenizer))
    for number, prompt in enumerate(PROMPTS):
        run.submit(generate(str(number), prompt, max_tokens=8 + 3 * number))
        run.step()
    run.end()
    for number, prompt in enumerate(PROMPTS):
        expected = greedy(model, tokenizer(prompt).input_ids, 8 + 3 * number)
        assert run.result(str(number))["tokens"] == expected


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen3, tiny_mistral, tiny_moe])
@pytest.mark.parametrize(
    ("attention", "compiled"), [("triton", True), ("triton", False), ("varlen", True), ("flash", True)]
)
def test_in_bfloat16_chances_are_nearly_those_of_float32(
    tmp_path: Path, make: Callable[[], PreTrainedModel], attention: str, *, compiled: bool
) -> None:
    """By kernels over pages, replayed from graphs, a step ahead."""
    save_causal(make(), tmp_path)
    spec = ModelSpec.model_validate(
        {
            "alias": "m",
            "engine": "causal",
            "source": f"path:{tmp_path}",
            "dtype": "bfloat16",
            "compile": compiled,
            "attention": attention,
            "cache_gb": 0.1,
        }
    )
    prompts = {str(number): prompt for number, prompt in enumerate(PROMPTS)}
    try:
        run = Run(loaded(spec))
    except ConfigurationError as unavailable:
        pytest.skip(str(unavailable))
    for job_id, prompt in prompts.items():
        run.submit(generate(job_id, prompt, max_tokens=20, logprobs=True))
        run.step()
    run.end()
    assert_chances_of(make(), byte_tokenizer(), run, prompts, within=0.25)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_auto_is_cuda_in_any_precision(tmp_path: Path, dtype: str) -> None:
    save_causal(tiny_llama(), tmp_path)
    entries = {"alias": "m", "engine": "causal", "source": f"path:{tmp_path}", "dtype": dtype, "cache_gb": 0.1}
    engine = loaded(ModelSpec.model_validate(entries))
    assert isinstance(engine, CausalEngine)
    assert isinstance(engine._executor, OneDevice)
    assert engine._executor._stage._part.device.type == "cuda"
    wishes = [
        generate(str(i), text, max_tokens=9, temperature=1.0, top_p=0.9, seed=i) for i, text in enumerate(PROMPTS)
    ]
    assert len(Run(engine, *wishes).end().finished) == len(PROMPTS)


@pytest.mark.parametrize(("dtype", "captured"), [("bfloat16", True), ("float32", False)])
def test_experts_are_captured_where_their_products_are_one_operator(
    tmp_path: Path, dtype: str, *, captured: bool
) -> None:
    save_causal(tiny_moe(), tmp_path)
    entries = {"alias": "m", "engine": "causal", "source": f"path:{tmp_path}", "dtype": dtype, "cache_gb": 0.1}
    engine = loaded(ModelSpec.model_validate(entries))
    assert isinstance(engine, CausalEngine)
    assert isinstance(engine._executor, OneDevice)
    assert bool(engine._executor._stage._graphs._buckets) == captured
    run = Run(engine, *(generate(str(i), text, max_tokens=9) for i, text in enumerate(PROMPTS))).end()
    assert len(run.finished) == len(PROMPTS)


def test_drafts_are_not_for_a_gpu(tmp_path: Path) -> None:
    save_causal(tiny_llama(), tmp_path)
    spec = ModelSpec(alias="m", engine="causal", source=f"path:{tmp_path}", draft_tokens=4, cache_gb=0.1)
    with pytest.raises(ConfigurationError, match="draft_tokens: a GPU computes a step ahead"):
        loaded(spec)


def test_embeddings_are_those_of_the_cpu(tmp_path: Path) -> None:
    save_encoder(tmp_path)
    rows = [
        Run(
            loaded(ModelSpec(alias="e", engine="encoder", source=f"path:{tmp_path}", device=device)),
            embed("a", *PROMPTS),
        )
        .end()
        .result("a")["embeddings"]
        for device in ("cpu", "cuda")
    ]
    assert torch.allclose(torch.tensor(rows[0]), torch.tensor(rows[1]), rtol=0, atol=1e-5)


def test_keys_and_values_may_take_most_of_what_is_free() -> None:
    free, total = torch.cuda.mem_get_info()
    spec = ModelSpec(alias="m", engine="causal", source="path:.")
    assert 0.9 * free < cache_bytes(spec, torch.device("cuda")) < free <= total
