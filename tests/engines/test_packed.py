"""Weights in oneDNN's order compute what they did before."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.support.engines import Run, causal_engine, generate, greedy
from tests.support.tiny_models import tiny_llama
from worker.engines.causal.packed import can_pack, pack_weights

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_products_are_the_same_for_any_number_of_rows(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Linear(48, 80, bias=bias).requires_grad_(requires_grad=False)
    parent = torch.nn.ModuleDict({"layer": plain})
    assert pack_weights(parent) == 1
    hidden = torch.randn(1, rows, 48)
    torch.testing.assert_close(parent["layer"](hidden), plain(hidden))


def test_layers_that_are_more_than_linear_stay_as_they_are() -> None:
    class Special(torch.nn.Linear):
        pass

    parent = torch.nn.ModuleDict({"special": Special(4, 4)})
    assert pack_weights(parent) == 0
    assert type(parent["special"]) is Special


def test_only_float32_on_a_cpu_is_packed() -> None:
    model = tiny_llama()
    assert can_pack(model)
    torch.nn.Module.to(model, torch.bfloat16)
    assert not can_pack(model)


def test_tokens_are_those_of_generate(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_llama()
    prompts = ["a brown fox", "tea", "the lazy dog went over hills"]
    expected = [greedy(model, tokenizer(prompt).input_ids, 20) for prompt in prompts]
    assert pack_weights(model) > 0
    asked = [generate(str(index), prompt, max_tokens=20) for index, prompt in enumerate(prompts)]
    run = Run(causal_engine(model, tokenizer), *asked).end()
    assert [run.result(each.id)["tokens"] for each in asked] == expected
