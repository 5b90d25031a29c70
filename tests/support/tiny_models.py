"""Models of a few thousand random weights, and a tokenizer of bytes: quick to make, and no less real to an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    HunYuanMoEV1Config,
    HunYuanMoEV1ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

END, START, SEPARATOR, PAD = "<end>", "[CLS]", "[SEP]", "[PAD]"
_SPECIAL = [PAD, END, START, SEPARATOR]
CONTEXT = 64


def byte_tokenizer(*, encoder: bool = False) -> PreTrainedTokenizerFast:
    """A token a byte, after the special ones; an encoder's wraps each text in [CLS] and [SEP]."""
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if encoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {SEPARATOR}",
            pair=f"{START} $A {SEPARATOR} $B:1 {SEPARATOR}:1",
            special_tokens=[(token, vocabulary[token]) for token in (START, SEPARATOR)],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        cls_token=START,
        sep_token=SEPARATOR,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


VOCABULARY = len(_SPECIAL) + 256
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    # Large enough that the next token depends on all that came before, and is not nearly a tie.
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
_CAUSAL: dict[str, Any] = _SIZES | {
    "num_key_value_heads": 2,
    "head_dim": 8,
    "eos_token_id": 1,
    "bos_token_id": 1,
    "tie_word_embeddings": False,
}


def _ready(model: PreTrainedModel) -> PreTrainedModel:
    model.eval()
    return model


def tiny_llama(positions: int = CONTEXT) -> PreTrainedModel:
    """Full attention."""
    torch.manual_seed(1)
    return _ready(LlamaForCausalLM(LlamaConfig(**_CAUSAL | {"max_position_embeddings": positions})))


def tiny_qwen3() -> PreTrainedModel:
    """Normalised queries and keys."""
    torch.manual_seed(2)
    return _ready(Qwen3ForCausalLM(Qwen3Config(**_CAUSAL)))


def tiny_gemma3() -> PreTrainedModel:
    """Two layers of three look back 8 tokens only, with rotary embeddings of their own."""
    torch.manual_seed(3)
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    return _ready(Gemma3ForCausalLM(Gemma3TextConfig(**_CAUSAL, sliding_window=8, layer_types=layers)))


def tiny_mistral() -> PreTrainedModel:
    """Every layer looks back 12 tokens only."""
    torch.manual_seed(6)
    return _ready(MistralForCausalLM(MistralConfig(**_CAUSAL, sliding_window=12)))


def tiny_moe() -> PreTrainedModel:
    """Two experts of four for each token, and the embeddings are the head's weights too."""
    torch.manual_seed(7)
    sizes = _CAUSAL | {"tie_word_embeddings": True}
    experts: dict[str, Any] = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
    }
    return _ready(Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **experts)))


def tiny_hunyuan() -> PreTrainedModel:
    """Its routers ask their weights for the dtype."""
    torch.manual_seed(7)
    return _ready(HunYuanMoEV1ForCausalLM(HunYuanMoEV1Config(**_CAUSAL, num_experts=4, moe_topk=[2, 2, 2])))


def tiny_granite() -> PreTrainedModel:
    """Embeddings, logits, and what each layer adds are multiplied."""
    torch.manual_seed(8)
    multipliers: dict[str, Any] = {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22}
    return _ready(GraniteForCausalLM(GraniteConfig(**_CAUSAL, **multipliers)))


def tiny_sinks() -> PreTrainedModel:
    """Attention that may attend to nothing, which ours can't."""
    experts: dict[str, Any] = {"num_local_experts": 2, "num_experts_per_tok": 1}
    return _ready(GptOssForCausalLM(GptOssConfig(**_CAUSAL, **experts, sliding_window=8)))


def save_causal(model: PreTrainedModel, folder: Path, *, chat_template: str | None = None) -> Path:
    """A folder that an engine can be loaded from."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = chat_template
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_encoder(folder: Path) -> Path:
    """Weights without a head."""
    torch.manual_seed(4)
    BertModel(BertConfig(**_SIZES)).save_pretrained(folder)
    byte_tokenizer(encoder=True).save_pretrained(folder)
    return folder


def save_classifier(folder: Path, labels: dict[int, str]) -> Path:
    """Weights with a classification head."""
    torch.manual_seed(5)
    config = BertConfig(**_SIZES, id2label=labels)
    BertForSequenceClassification(config).save_pretrained(folder)
    byte_tokenizer(encoder=True).save_pretrained(folder)
    return folder
