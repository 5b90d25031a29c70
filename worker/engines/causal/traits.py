"""What a model's configuration says of how it can be run."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

_GROWING = ("dynamic", "longrope")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def chooses_experts(model: PreTrainedModel) -> bool:
    """Whether layers look at what they compute to decide what to compute, which waits for the device.

    Such a model is neither compiled nor captured.
    """
    config: Any = model.config.get_text_config()
    return any((getattr(config, name, None) or 0) > 1 for name in _EXPERTS)


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
