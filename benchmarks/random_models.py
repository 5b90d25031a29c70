"""Models of a real one's shape with random weights: as quick as that one, and nothing to download."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

LARGE: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
}
SMALL: dict[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
}
CONTEXT = 8192


def shape(*, large: bool) -> Qwen3Config:
    """A Qwen3 of 8 billion weights, or a small one."""
    return Qwen3Config(
        **(LARGE if large else SMALL),
        num_key_value_heads=8,
        head_dim=128 if large else 64,
        vocab_size=151_936 if large else 8192,
        max_position_embeddings=40_960,
        tie_word_embeddings=False,
    )


def shape_with_experts(*, large: bool) -> Qwen3MoeConfig:
    """A Qwen3 of 30 billion weights, of which a token uses 3, or a small one."""
    sizes: dict[str, Any] = {
        "hidden_size": 2048 if large else 256,
        "moe_intermediate_size": 768 if large else 96,
        "num_hidden_layers": 48 if large else 4,
        "num_attention_heads": 32 if large else 4,
        "num_key_value_heads": 4 if large else 2,
        "head_dim": 128 if large else 64,
        "num_experts": 128 if large else 8,
        "num_experts_per_tok": 8 if large else 2,
        "vocab_size": 151_936 if large else 8192,
        "max_position_embeddings": 40_960,
        "tie_word_embeddings": False,
    }
    return Qwen3MoeConfig(**sizes)


def random_model(config: PretrainedConfig, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A model of this shape. Its weights are random, and the same each time."""
    torch.manual_seed(0)
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.eval()
    model.requires_grad_(requires_grad=False)
    return model


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A word a token, so that a prompt has as many tokens as it should."""
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(vocabulary)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0")
