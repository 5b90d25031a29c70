"""How models are made ready for the engine, and which ones are refused."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForCausalLM,
    BertConfig,
    BertLMHeadModel,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForCausalLM,
)

from ktqueue.errors import ConfigurationError
from tests.support.tiny_models import CONTEXT, VOCABULARY, tiny_gemma3, tiny_llama, tiny_mistral, tiny_moe, tiny_sinks
from worker.engines.causal.attention.base import LayerShape
from worker.engines.causal.cache import size_for
from worker.engines.causal.fuse import merge_projections
from worker.engines.causal.paged import prepare
from worker.engines.causal.part import Part
from worker.engines.causal.traits import longest_alike

IDS = torch.arange(4, 21).unsqueeze(0)


def test_what_layers_keep_is_seen() -> None:
    shape = LayerShape(heads=2, key_dim=8, value_dim=8, dtype=torch.float32, window=None)
    assert prepare(Part(tiny_llama())) == [shape] * 3
    assert [seen.window for seen in prepare(Part(tiny_gemma3()))] == [8, None, 8]
    assert [seen.window for seen in prepare(Part(tiny_mistral()))] == [12, 12, 12]
    assert shape.bytes_per_token == 2 * (8 + 8) * 4


def test_models_whose_attention_is_another_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="masks or sinks of its own"):
        prepare(Part(tiny_sinks()))
    mamba = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=2))
    with pytest.raises(ConfigurationError, match="mamba models can't be batched"):
        prepare(Part(mamba))


def test_models_that_take_no_positions_are_refused() -> None:
    bart = BartForCausalLM(BartConfig(vocab_size=VOCABULARY, d_model=16, decoder_layers=2, decoder_attention_heads=2))
    with pytest.raises(ConfigurationError, match="bart models can't be batched: they are not told where a token is"):
        prepare(Part(bart))


@pytest.mark.parametrize("decoder", [True, False])
def test_models_that_look_both_ways_are_refused(*, decoder: bool) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2}
    config = BertConfig(vocab_size=VOCABULARY, num_attention_heads=2, is_decoder=decoder, **sizes)
    with nullcontext() if decoder else pytest.raises(ConfigurationError, match="look at what comes after a token"):
        assert len(prepare(Part(BertLMHeadModel(config)))) == 2


def test_models_that_count_positions_from_behind_padding_are_refused() -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2}
    config = RobertaConfig(vocab_size=VOCABULARY, num_attention_heads=2, is_decoder=True, **sizes)
    with pytest.raises(ConfigurationError, match="roberta models can't be batched: they count positions from behind"):
        prepare(Part(RobertaForCausalLM(config)))


@pytest.mark.parametrize(("window", "refused"), [(8, True), (CONTEXT, False), (None, False)])
def test_a_window_that_layers_do_not_tell_is_refused_where_it_matters(window: int | None, *, refused: bool) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2, "num_local_experts": 2}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT}
    model = PhimoeForCausalLM(PhimoeConfig(vocab_size=VOCABULARY, sliding_window=window, **sizes, **heads))
    with pytest.raises(ConfigurationError, match="how far they look back") if refused else nullcontext():
        assert len(prepare(Part(model))) == 2


@pytest.mark.parametrize(("model", "saved"), [(tiny_llama(), 9), (tiny_gemma3(), 9), (tiny_moe(), 6)])
@torch.inference_mode()
def test_merged_projections_compute_the_same(model: PreTrainedModel, saved: int) -> None:
    before = model(input_ids=IDS).logits
    assert merge_projections(model) == saved
    assert torch.allclose(model(input_ids=IDS).logits, before, atol=1e-5)


def test_a_cache_is_as_large_as_memory_or_as_could_be_needed() -> None:
    assert LayerShape(heads=2, key_dim=8, value_dim=8, dtype=torch.float32, window=None).bytes_per_token == 128
    assert size_for(100_000, 384, 16, most_tokens=10_000).blocks == 100_000 // (16 * 384)
    assert size_for(10**9, 384, 16, most_tokens=100).tokens == 7 * 16
    with pytest.raises(ConfigurationError, match="0 MB are left for keys and values"):
        size_for(10_000, 1000, 16, most_tokens=10_000)


def test_rotary_embeddings_that_grow_bound_the_context() -> None:
    def turning(**rope: Any) -> PreTrainedModel:
        config: Any = tiny_llama().config
        config.rope_parameters = {"rope_theta": 1e4, **rope}
        return LlamaForCausalLM(config)

    assert longest_alike(tiny_llama()) is None
    assert longest_alike(tiny_gemma3()) is None
    assert longest_alike(turning(rope_type="dynamic", factor=2.0)) == CONTEXT
    assert longest_alike(turning(rope_type="yarn", factor=2.0, original_max_position_embeddings=32)) is None
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    assert longest_alike(turning(rope_type="longrope", original_max_position_embeddings=32, **factors)) == 32
