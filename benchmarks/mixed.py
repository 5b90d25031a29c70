"""Sixteen requests of mixed lengths to a small causal model, and what plain transformers makes of them.

Prompts of 8 to 128 tokens, answers of 8 to 128 (uniform, fixed seed), greedy, none ended by the model: so there is the
same number of tokens to compute on every side.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ktqueue.job import JsonObject
from ktqueue.models import ModelSpec

WORDS = ("time", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state", "family")
REQUESTS = 16
LEAST, MOST = 8, 128


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt of so many words, each of them a token to SmolLM2, and how many tokens are to follow."""

    prompt: str
    answer: int

    @property
    def params(self) -> JsonObject:
        """As our API takes them."""
        return {"max_tokens": self.answer, "ignore_eos": True}


def workload(count: int = REQUESTS) -> list[Asked]:
    """The same each time."""
    source = random.Random(0)
    return [
        Asked(" ".join(source.choices(WORDS, k=source.randint(LEAST, MOST))), source.randint(LEAST, MOST))
        for _ in range(count)
    ]


class PlainCausal:
    """`generate`, greedy, in float32, with the model's end tokens forgotten."""

    def __init__(self, spec: ModelSpec) -> None:
        import torch  # noqa: PLC0415 - other scenarios do without torch
        from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

        from worker.engines.gguf_file import load_gguf  # noqa: PLC0415

        weights = spec.weights()
        assert weights.gguf is not None
        self._tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(weights.name, gguf_file=weights.gguf)
        self._tokenizer.padding_side = "left"
        self._model: Any = load_gguf(Path(weights.name) / weights.gguf, torch.float32).eval()
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = self._tokenizer.pad_token_id

    def generate(self, asked: Sequence[Asked], batch: int) -> list[list[int]]:
        """In padded batches, each until its longest answer is done; of every answer, the tokens that were asked for."""
        answers: list[list[int]] = []
        for start in range(0, len(asked), batch):
            together = asked[start : start + batch]
            inputs = self._tokenizer([each.prompt for each in together], padding=True, return_tensors="pt")
            longest = max(each.answer for each in together)
            output = self._model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=longest,
                do_sample=False,
            )
            rows = output[:, inputs["input_ids"].shape[1] :].tolist()
            answers += [row[: each.answer] for row, each in zip(rows, together, strict=True)]
        return answers

    def save(self, folder: Path) -> None:
        """The same weights as a folder that `from_pretrained` reads."""
        self._model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
