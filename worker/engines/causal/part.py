"""A model, or some of its layers one after the other."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel


class Part:
    """Turns what comes before its layers into what comes after them, for flat tokens.

    The ``first`` part takes ids, others what the part before them gave. The ``last`` gives logits, others what the next
    part takes.
    """

    def __init__(self, model: PreTrainedModel, *, first: bool = True, last: bool = True) -> None:
        self.model = model
        self.first = first
        self.last = last
        # A model is asked for these now: once its weights are packed it may not know.
        self.device = model.device
        self.dtype = model.dtype

    @property
    def width(self) -> int:
        """How many numbers a token is between two parts."""
        width: int = self.model.config.get_text_config().hidden_size
        return width

    def inputs(self, tokens: int) -> torch.Tensor:
        """Something to run it on, to see what that takes."""
        if self.first:
            return torch.zeros(tokens, dtype=torch.long, device=self.device)
        return torch.zeros(tokens, self.width, dtype=self.dtype, device=self.device)

    def __call__(self, given: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor | int = 0) -> torch.Tensor:
        """``given``: ids (tokens,) or (tokens, width). ``positions``: (tokens,).

        The result is (tokens, width), or (draws, vocabulary) of the tokens to ``keep``, (draws,); 0 keeps all.
        """
        inputs = {"input_ids" if self.first else "inputs_embeds": given.unsqueeze(0)}
        positions = positions.unsqueeze(0)
        if not self.last:
            base: Any = self.model.base_model
            hidden: torch.Tensor = base(**inputs, position_ids=positions, use_cache=False).last_hidden_state
            return hidden[0]
        output = self.model(**inputs, position_ids=positions, use_cache=False, logits_to_keep=keep)
        logits: torch.Tensor = output.logits[0]
        return logits
