"""How a model can be run: what its configuration says, and what it does when it is tried."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from worker.engines.causal.paged import attending, unpaged
from worker.engines.causal.part import Part

_GROWING = ("dynamic", "longrope")


@torch.inference_mode()
def waits_for_device(part: Part) -> bool:
    """Whether a forward of a `prepared` part asks a GPU what it has computed, to decide what to compute next.

    Such a model is neither compiled nor captured. Most do not; those that choose experts do, unless the products of all
    experts are one operator, which transformers has for some precisions.
    """
    inputs, positions = part.inputs(2), torch.arange(2, device=part.device)
    try:
        with attending(unpaged()), _waiting_is_an_error():
            part(inputs, positions)
    except RuntimeError as error:
        if "synchronizing CUDA operation" not in str(error):
            raise
        return True
    return False


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    with warnings.catch_warnings():
        # Torch says that it may not notice all. What it misses fails while it is captured, when the slot starts.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def longest_alike(model: PreTrainedModel) -> int | None:
    """Up to how many tokens a position is turned the same whoever else is in the batch; None for any number.

    Some rotary embeddings are others for all as soon as one text is longer than those the model was first trained on.
    """
    config: Any = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(each for each in rope.values() if isinstance(each, dict))]
    originals = [
        each.get("original_max_position_embeddings") or config.max_position_embeddings
        for each in kinds
        if each.get("rope_type") in _GROWING
    ]
    return min(originals, default=None)
