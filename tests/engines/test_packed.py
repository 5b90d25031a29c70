"""Weights in MKL's order, and norms in one piece, compute what they did."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LongcatFlashConfig, LongcatFlashForCausalLM, PreTrainedModel

from ktqueue.errors import ConfigurationError
from tests.support.tiny_models import tiny_gemma3, tiny_hunyuan, tiny_llama, tiny_mistral, tiny_moe, tiny_qwen3
from worker.engines.causal.fitting import quicken
from worker.engines.causal.norms import fuse_norms
from worker.engines.causal.paged import prepare
from worker.engines.causal.part import Part
from worker.engines.packed import PackedLinear, is_plain, pack_linears

IDS = torch.arange(4, 21).unsqueeze(0)

needs_mkl = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch has no MKL")


@needs_mkl
@given(rows=st.integers(0, 400), out_features=st.integers(1, 90), in_features=st.integers(1, 90), bias=st.booleans())
@torch.inference_mode()
def test_a_packed_layer_computes_the_same_for_any_number_of_rows(
    *, rows: int, out_features: int, in_features: int, bias: bool
) -> None:
    layer = torch.nn.Linear(in_features, out_features, bias=bias)
    hidden = torch.randn(1, rows, in_features)
    assert torch.allclose(PackedLinear(layer)(hidden), layer(hidden), atol=1e-4)


@needs_mkl
@pytest.mark.parametrize("make", [tiny_llama, tiny_gemma3, tiny_qwen3, tiny_moe, tiny_hunyuan])
@torch.inference_mode()
def test_a_packed_model_computes_the_same(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    before = model(input_ids=IDS).logits
    assert pack_linears(model) > 0
    assert torch.allclose(model(input_ids=IDS).logits, before, atol=1e-5)


@needs_mkl
def test_weights_are_kept_once() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    weight = weakref.ref(model[0].weight)
    assert pack_linears(model) == 1
    gc.collect()
    assert weight() is None


def test_what_is_no_plain_float32_layer_stays() -> None:
    class Quantised(torch.nn.Linear):
        pass

    # Packages leave the layer as it is, and do something before, after or around its product.
    wrapped, hooked, narrow, empty = (torch.nn.Linear(8, 8) for _ in range(4))
    vars(wrapped)["forward"] = torch.nn.Identity()
    hooked.register_forward_pre_hook(lambda _, given: given)
    narrow.weight = torch.nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False)
    del empty.weight
    model = torch.nn.Sequential(
        Quantised(8, 8), torch.nn.Linear(8, 8, dtype=torch.bfloat16), wrapped, hooked, narrow, empty
    )
    assert pack_linears(model) == 0
    assert [is_plain(layer) for layer in model] == [False, True, False, False, False, False]


@needs_mkl
def test_who_computes_with_packed_weights_gets_no_number() -> None:
    layer = PackedLinear(torch.nn.Linear(3, 2))
    assert (layer.weight.shape, layer.weight.dtype, layer.weight.device.type) == ((2, 3), torch.float32, "cpu")
    assert torch.nn.functional.linear(torch.zeros(1, 3), layer.weight).isnan().all()
    assert "weight" not in layer.state_dict()


@needs_mkl
@pytest.mark.parametrize(("dtype", "refused"), [(torch.float32, True), (torch.bfloat16, False)])
def test_models_that_compute_with_the_weights_of_a_layer_are_not_packed(dtype: torch.dtype, *, refused: bool) -> None:
    """LongCat's routers do."""
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "ffn_hidden_size": 16,
        "expert_ffn_hidden_size": 8,
        "num_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "n_routed_experts": 4,
        "zero_expert_num": 0,
        "moe_topk": 2,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 4,
        "head_dim": 4,
    }
    torch.manual_seed(9)
    part = Part(LongcatFlashForCausalLM(LongcatFlashConfig(vocab_size=32, **sizes)).eval().to(dtype))
    prepare(part)
    with pytest.raises(ConfigurationError, match="can't be run on a CPU in float32") if refused else nullcontext():
        quicken(part, compiled=False)


@pytest.mark.parametrize(("make", "norms"), [(tiny_llama, 7), (tiny_mistral, 7), (tiny_gemma3, 19), (tiny_qwen3, 13)])
@torch.inference_mode()
def test_fused_norms_compute_the_same_to_the_bit(make: Callable[[], PreTrainedModel], norms: int) -> None:
    model = make()
    before = model(input_ids=IDS).logits
    assert fuse_norms(model) == norms
    assert torch.equal(model(input_ids=IDS).logits, before)


def test_a_norm_that_is_another_stays() -> None:
    class OddRMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(8))
            self.eps = 1e-6

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden / (hidden.abs().mean(-1, keepdim=True) + self.eps) * self.weight

    assert fuse_norms(torch.nn.Sequential(OddRMSNorm())) == 0
