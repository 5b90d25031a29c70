"""Texts in, tensors out: what encoders read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from worker.engines.trouble import Refused, too_long


@dataclass(frozen=True, slots=True)
class Item:
    """One text, or one pair of texts, as tokens. ``types`` tells the two of a pair apart, in models that ask for it."""

    ids: list[int]
    types: list[int] | None


class Reader:
    """Turns texts into tokens, special tokens included. Never cuts one short: a text over ``context`` is refused."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        self._tokenizer = tokenizer
        self._context = context

    def texts(self, texts: Sequence[str], name: str) -> list[Item]:
        """An item a text. Raises Refused, which calls the texts ``name``."""
        return self._read(list(texts), None, name)

    def pairs(self, first: str, seconds: Sequence[str], name: str) -> list[Item]:
        """``first`` with each of ``seconds``. Raises Refused, which calls the pairs ``name``."""
        return self._read([first] * len(seconds), list(seconds), name)

    def _read(self, texts: list[str], seconds: list[str] | None, name: str) -> list[Item]:
        if not texts:
            raise Refused(f"{name} is empty")
        # A tokenizer's own file may ask for truncation and padding; both are said here, so neither happens.
        coded = self._tokenizer(
            texts, seconds, truncation=False, padding=False, return_attention_mask=False, verbose=False
        )
        types = coded.get("token_type_ids", [None] * len(texts))
        items = [Item(ids, kinds) for ids, kinds in zip(coded["input_ids"], types, strict=True)]
        for index, item in enumerate(items):
            if len(item.ids) > self._context:
                raise too_long(f"{name}[{index}]", len(item.ids), self._context)
        return items


def collate(batch: Sequence[Item], pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    """A batch as a model's arguments, (texts, longest), padded on the right."""
    longest = max(len(item.ids) for item in batch)
    inputs = {
        "input_ids": [item.ids + [pad] * (longest - len(item.ids)) for item in batch],
        "attention_mask": [[1] * len(item.ids) + [0] * (longest - len(item.ids)) for item in batch],
    }
    kinds = [item.types for item in batch if item.types is not None]
    if kinds:
        inputs["token_type_ids"] = [types + [0] * (longest - len(types)) for types in kinds]
    return {name: torch.tensor(rows, device=device) for name, rows in inputs.items()}
