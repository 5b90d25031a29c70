"""The forwards of a batch that changes between any two steps, over one dense slab of keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ktqueue.errors import ConfigurationError
from worker.engines.causal.slab import Slab, States, cells


class Reading:
    """Prompts on their way in: read together, padded on the left, at once or a piece at a time."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        self._model = model
        self.lengths = [len(prompt) for prompt in prompts]
        self._cache = DynamicCache()
        self._done = 0
        longest = max(self.lengths)
        padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        self._ids = torch.tensor(padded, device=model.device)
        firsts = torch.tensor([longest - length for length in self.lengths], device=model.device).unsqueeze(-1)
        columns = torch.arange(longest, device=model.device)
        self._positions = (columns - firsts).clamp(min=0)
        self._mask = (columns >= firsts).long() if len(set(self.lengths)) > 1 else None

    @property
    def left(self) -> int:
        """How many columns are still to be read."""
        return self._ids.shape[1] - self._done

    @torch.inference_mode()
    def advance(self, columns: int) -> torch.Tensor:
        """Read so many more. The logits after the last of them, (prompts, vocabulary)."""
        piece = slice(self._done, self._done + columns)
        output = self._model(
            input_ids=self._ids[:, piece],
            attention_mask=None if self._mask is None else self._mask[:, : piece.stop],
            position_ids=self._positions[:, piece],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._done = min(piece.stop, self._ids.shape[1])
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    @property
    def states(self) -> States:
        """The keys and values of what has been read, (prompts, heads, columns, width)."""
        return [(keys, values) for keys, values, *_ in self._cache]


class DenseBatch:
    """The members of the batch, a row each. ``memory`` is what their keys and values may take, in bytes.

    This is all that the engine knows of keys and values; a paged cache would take this class's place.
    """

    def __init__(self, model: PreTrainedModel, *, memory: int) -> None:
        self._model = model
        self._slab = Slab()
        self._most_cells = memory // _bytes_per_token(model)

    @property
    def longest(self) -> int:
        """The most tokens that a member can have, if it is alone."""
        return self._most_cells - cells(1, 0)

    def fits(self, rows: int, longest: int) -> bool:
        """Whether there is memory for so many members, of at most ``longest`` tokens."""
        return cells(rows, longest) <= self._most_cells

    def read(self, prompts: Sequence[Sequence[int]]) -> Reading:
        """Begin to read prompts; when nothing is left of them, they can `join`."""
        return Reading(self._model, prompts)

    @torch.inference_mode()
    def join(self, reading: Reading) -> None:
        """Take in prompts that were read, as the last rows."""
        self._slab.join(reading.states, reading.lengths)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int]) -> torch.Tensor:
        """Give every member its next token. The logits after it, (rows, vocabulary)."""
        self._slab.make_room()
        device = self._model.device
        output = self._model(
            input_ids=torch.tensor(tokens, device=device).unsqueeze(-1),
            attention_mask=self._slab.mask(device),
            position_ids=torch.tensor(self._slab.lengths, device=device).unsqueeze(-1),
            past_key_values=self._slab.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._slab.advance()
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    @torch.inference_mode()
    def leave(self, row: int) -> None:
        """Free a row; the last row takes its place."""
        self._slab.leave(row)

    def clear(self) -> None:
        """Forget all members, and give their memory back."""
        self._slab = Slab()


def _bytes_per_token(model: PreTrainedModel) -> int:
    """Run one token through the model and see. Raises ConfigurationError if it keeps anything but keys and values."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    if not kinds or not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        raise ConfigurationError(
            f"{model.config.model_type} models can't be batched: not all layers have keys and values"
        )
    trial = Reading(model, [[0]])
    trial.advance(1)
    return sum(keys.nbytes + values.nbytes for keys, values in trial.states)
