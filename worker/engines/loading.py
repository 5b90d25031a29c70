"""From a catalogue entry's weights to an engine: quietly, and with one clear line when it can't be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.hub import cached_file
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from ktqueue.errors import ConfigurationError
from ktqueue.job import Task
from ktqueue.models import ModelSpec, Place, Weights
from worker.engines.base import Engine
from worker.engines.causal.building import build
from worker.engines.causal.pipeline.building import build_staged
from worker.engines.causal.prompt import PromptReader
from worker.engines.causal.voice import Voice, voice_of
from worker.engines.device import DTYPES, choose_device, rules, stay_on, use_threads
from worker.engines.encoder import EncoderEngine
from worker.engines.gguf_file import load_gguf
from worker.engines.heads import POOLINGS, Head, Labels, Pooling, Vectors
from worker.engines.positions import places
from worker.engines.quantised import load_model
from worker.engines.texts import Reader

LARGEST_SANE_CONTEXT = 10_000_000
"""Tokenizers that know of no limit tell one of 10 to the 30th."""

_PARTS = ("Transformer", "Pooling", "Normalize")
"""Of sentence-transformers' modules those that are done here, the last as a request wishes."""

_NEWER_NAMES = {"mean": "mean_tokens", "cls": "cls_token"}
"""What sentence-transformers 6 calls what it called otherwise before."""


def load_encoder(spec: ModelSpec, place: Place) -> Engine:
    """An engine for embed, classify and rerank. Raises ConfigurationError."""
    device = _prepare(spec, place[0])
    weights = spec.weights()
    with _clear_errors(spec):
        tokenizer = _tokenizer(spec, weights)
        config = _config(spec, weights)
        classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or [])
        family = AutoModelForSequenceClassification if classifies else AutoModel
        model = _ready(_model(family, spec, weights, config, device), device)
        reader = Reader(tokenizer, context_of(spec, model, tokenizer.model_max_length))
        pad = _pad(model, tokenizer)
        if classifies:
            _check_labels(spec, model)
        head: Head = Labels(model, reader, pad) if classifies else Vectors(model, reader, _pooling(spec, weights), pad)
    _check_tasks(spec, head)
    return EncoderEngine(head, max_batch=spec.max_batch, rules=rules(spec, device))


def load_causal(spec: ModelSpec, place: Place) -> Engine:
    """An engine for generate; on several devices, a process for each. Raises ConfigurationError."""
    weights = spec.weights()
    if len(place) > 1:
        with _clear_errors(spec):
            quietly()
            return build_staged(spec, place, _tokenizer(spec, weights))
    device = _prepare(spec, place[0])
    with _clear_errors(spec):
        tokenizer = _tokenizer(spec, weights)
        model = _ready(_causal_model(spec, weights, device), device)
        context = context_of(spec, model, LARGEST_SANE_CONTEXT)
        return build(spec, model, PromptReader(tokenizer, context), voice(model, tokenizer))


def voice(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Voice:
    """How this model's tokens are told, and which of them end an answer."""
    return voice_of(tokenizer, frozenset(ends_of(model) or _ends([tokenizer.eos_token_id])))


def ends_of(model: PreTrainedModel) -> list[int]:
    """The tokens that end an answer, as far as the model itself says."""
    told = model.generation_config.eos_token_id
    return _ends(told if isinstance(told, list) else [told])


def _ends(tokens: Sequence[int | None]) -> list[int]:
    return [token for token in tokens if token is not None]


def quietly() -> None:
    """Let transformers speak only of trouble."""
    disable_progress_bar()
    set_verbosity_error()


def _prepare(spec: ModelSpec, name: str) -> torch.device:
    quietly()
    use_threads(spec.threads)
    device = choose_device(spec, name)
    stay_on(device)
    return device


@contextmanager
def _clear_errors(spec: ModelSpec) -> Iterator[None]:
    """Whatever a library says about a file or a hub that it can't use, in one line with the model's name."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigurationError(f"model {spec.alias!r}: can't be loaded: {reason}") from error


def _origin(spec: ModelSpec, weights: Weights) -> dict[str, Any]:
    return {"revision": weights.revision or "main", "trust_remote_code": spec.trust_remote_code}


def _tokenizer(spec: ModelSpec, weights: Weights) -> PreTrainedTokenizerBase:
    if weights.gguf:
        # AutoTokenizer would parse the file for a configuration too, which takes seconds.
        fast: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(weights.name, gguf_file=weights.gguf)
        return fast
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(weights.name, **_origin(spec, weights))
    return tokenizer


def _config(spec: ModelSpec, weights: Weights) -> PreTrainedConfig:
    config: PreTrainedConfig = AutoConfig.from_pretrained(weights.name, **_origin(spec, weights))
    return config


def _pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """What rows are filled up with. Models that score a text by its last token look for it before these."""
    told: int | None = getattr(model.config, "pad_token_id", None)
    if told is not None and told >= 0:
        return told
    pad: int = tokenizer.pad_token_id or 0
    model.config.pad_token_id = pad
    return pad


def _causal_model(spec: ModelSpec, weights: Weights, device: torch.device) -> PreTrainedModel:
    if weights.gguf:
        return load_gguf(Path(weights.name) / weights.gguf, DTYPES[spec.dtype])
    return _model(AutoModelForCausalLM, spec, weights, _config(spec, weights), device)


def _model(
    family: Any, spec: ModelSpec, weights: Weights, config: PreTrainedConfig, device: torch.device
) -> PreTrainedModel:
    return load_model(
        family, spec.alias, weights.name, config, device, dtype=DTYPES[spec.dtype], **_origin(spec, weights)
    )


def _ready(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    torch.nn.Module.to(model, device)
    model.eval()
    model.requires_grad_(requires_grad=False)
    return model


def context_of(spec: ModelSpec, model: PreTrainedModel, tokenizer_says: int) -> int:
    """The most tokens of one text, as the catalogue says, or else the model and its tokenizer.

    Never more than there are learned positions for.
    """
    most = min(places(model), default=LARGEST_SANE_CONTEXT)
    if spec.context is not None:
        return min(spec.context, most)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or LARGEST_SANE_CONTEXT
    context: int = min(positions, tokenizer_says, most)
    if context >= LARGEST_SANE_CONTEXT:
        raise ConfigurationError(f"model {spec.alias!r}: does not say how long a text may be; set 'context'")
    return context


def _pooling(spec: ModelSpec, weights: Weights) -> Pooling:
    """How token vectors become one: as sentence-transformers' files beside the weights say, or else their mean."""
    parts = [str(part["type"]).rpartition(".")[2] for part in _beside(weights, "modules.json") or []]
    if strange := [part for part in parts if part not in _PARTS]:
        raise ConfigurationError(
            f"model {spec.alias!r}: its embeddings go through {', '.join(strange)}; can do {', '.join(_PARTS)}"
        )
    entries: dict[str, Any] | None = _beside(weights, "1_Pooling/config.json")
    if entries is None:
        return POOLINGS["mean_tokens"]
    modes = _modes(entries)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ConfigurationError(
            f"model {spec.alias!r}: can't pool by {', '.join(modes)}; can by {', '.join(POOLINGS)}"
        )
    return POOLINGS[modes[0]]


def _modes(entries: Mapping[str, Any]) -> list[str]:
    """What a file on pooling names: sentence-transformers 6 in one entry, those before it with a switch for each."""
    told = entries.get("pooling_mode")
    if told is None:
        return [name.removeprefix("pooling_mode_") for name, on in entries.items() if on is True and "_mode_" in name]
    modes = told if isinstance(told, list) else [told]
    return [_NEWER_NAMES.get(str(mode), str(mode)) for mode in modes]


def _beside(weights: Weights, name: str) -> Any:
    """What a JSON file beside the weights says; None if there is none."""
    path = cached_file(
        weights.name,
        name,
        revision=weights.revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


def _check_labels(spec: ModelSpec, model: PreTrainedModel) -> None:
    told = sorted(int(index) for index in model.config.id2label or {})
    if told != list(range(len(told))):
        raise ConfigurationError(
            f"model {spec.alias!r}: its configuration names the labels {', '.join(map(str, told))}, "
            f"not 0 to {len(told) - 1}"
        )


def _check_tasks(spec: ModelSpec, head: Head) -> None:
    missing = [task for task in spec.offers if Task(task) not in head.tasks]
    if missing:
        can = ", ".join(sorted(head.tasks))
        raise ConfigurationError(f"model {spec.alias!r}: these weights can't {', '.join(missing)}; they can {can}")
