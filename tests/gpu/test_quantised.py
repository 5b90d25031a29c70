"""Quantised weights on CUDA: chances are as exact as those of transformers' own forward of the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ktqueue.models import ModelSpec
from tests.support.engines import Run, chances, generate, loaded, told
from tests.support.quantised import PACKAGES, save_quantised, there, unpacked
from tests.support.tiny_models import byte_tokenizer
from worker.engines.causal.engine import CausalEngine
from worker.engines.causal.executor import OneDevice

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

PROMPTS = ["tea", "a brown fox", "over the hills and far away", "x", "to see what is there", "lazy dogs"]
KINDS = [
    pytest.param(kind, marks=pytest.mark.skipif(not there(kind), reason=f"needs the package {package}"))
    for kind, package in PACKAGES.items()
]
MORE = {"bitsandbytes int8": 3.0}
"""It computes columns apart that are large in any row of a step, so that an answer depends on its company."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", [None, False])
def test_chances_are_as_exact_as_those_of_transformers_forward(
    tmp_path: Path, kind: str, *, compiled: bool | None
) -> None:
    """As it is by default, and without the compiler; captured wherever a forward does not wait for the device."""
    save_quantised(kind, tmp_path, torch.bfloat16, "cuda")
    entries = {"alias": "m", "engine": "causal", "source": f"path:{tmp_path}", "dtype": "bfloat16", "cache_gb": 0.1}
    engine = loaded(ModelSpec.model_validate(entries | {"compile": compiled, "max_batch": 4}))
    assert isinstance(engine, CausalEngine)
    prompts = {str(number): prompt for number, prompt in enumerate(PROMPTS)}
    run = Run(engine)
    for job_id, prompt in prompts.items():
        while engine.capacity() == 0:
            run.step()
        run.submit(generate(job_id, prompt, max_tokens=20, logprobs=True))
        run.step()
    run.end()
    packed = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, device_map={"": "cuda"})
    its = chances(packed, byte_tokenizer(), run, prompts)
    exact = chances(unpacked(packed), byte_tokenizer(), run, prompts)
    ours_off, its_off = (float((each - exact).square().mean().sqrt()) for each in (told(run, prompts), its))
    assert ours_off < MORE.get(kind, 1.5) * its_off


@pytest.mark.skipif(not there("torchao int8"), reason="needs the package torchao")
def test_steps_of_int8_weights_are_captured(tmp_path: Path) -> None:
    save_quantised("torchao int8", tmp_path, torch.bfloat16, "cuda")
    spec = ModelSpec(alias="m", engine="causal", source=f"path:{tmp_path}", dtype="bfloat16", cache_gb=0.1)
    engine = loaded(spec)
    assert isinstance(engine, CausalEngine)
    assert isinstance(engine._executor, OneDevice)
    assert engine._executor._stage._graphs._buckets
