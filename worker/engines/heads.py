"""What an encoder's output is made into: vectors (embed, rerank) or labels (classify, rerank)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import torch
from transformers import PreTrainedModel

from ktqueue.job import JsonObject, Task
from worker.engines.base import Request
from worker.engines.texts import Item, Reader, collate
from worker.engines.trouble import Refused

Pooling: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(texts, tokens, width) hidden states and a (texts, tokens) mask to (texts, width)."""


def mean_of_tokens(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over a text's own tokens (N. Reimers, I. Gurevych, "Sentence-BERT", 2019)."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def first_token(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The token that many models put before a text, [CLS]."""
    return hidden[torch.arange(len(mask), device=mask.device), 0]


def last_token(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The last token, the only one that has seen the whole text in a causal model."""
    return hidden[torch.arange(len(mask), device=mask.device), mask.sum(1) - 1]


POOLINGS: Mapping[str, Pooling] = {"mean_tokens": mean_of_tokens, "cls_token": first_token, "lasttoken": last_token}
"""By sentence-transformers' names for them."""


class Head(Protocol):
    """One model with one forward; what it can do for a request depends on the request's task."""

    tasks: frozenset[Task]

    def items(self, request: Request) -> list[Item]:
        """What has to be run for a request. Raises Refused."""

    def run(self, batch: Sequence[Item]) -> torch.Tensor:
        """(items, numbers), float32 on the CPU."""

    def result(self, request: Request, rows: torch.Tensor) -> JsonObject:
        """The result, from the rows of all of a request's items. Raises Refused."""


class Vectors:
    """A sentence embedding a text; a document's score is its vector's cosine with the query's."""

    tasks = frozenset({Task.EMBED, Task.RERANK})

    def __init__(self, model: PreTrainedModel, reader: Reader, pooling: Pooling, pad: int) -> None:
        self._model = model
        self._reader = reader
        self._pooling = pooling
        self._pad = pad

    def items(self, request: Request) -> list[Item]:
        """An item a text; for rerank, the query first."""
        if request.task == Task.RERANK:
            query = self._reader.texts([request.input["query"]], "query")
            return query + self._reader.texts(request.input["documents"], "documents")
        return self._reader.texts(_texts(request), "texts")

    @torch.inference_mode()
    def run(self, batch: Sequence[Item]) -> torch.Tensor:
        """A vector an item, not normalised."""
        inputs = collate(batch, self._pad, self._model.device)
        hidden = self._model(**inputs).last_hidden_state.float()
        return self._pooling(hidden, inputs["attention_mask"]).cpu()

    def result(self, request: Request, rows: torch.Tensor) -> JsonObject:
        """``embeddings``, or ``results`` best first."""
        if request.task == Task.RERANK:
            unit = torch.nn.functional.normalize(rows, dim=-1)
            return _ranking(request, (unit[1:] @ unit[0]).tolist())
        width = request.params.get("dimensions") or rows.shape[-1]
        if width > rows.shape[-1]:
            raise Refused(f"params.dimensions is {width}; the model's embeddings have {rows.shape[-1]}")
        rows = rows[:, :width]
        if request.params.get("normalize", True):
            rows = torch.nn.functional.normalize(rows, dim=-1)
        return {"embeddings": rows.tolist()}


class Labels:
    """Scores for the labels of a classification head; a document's score is that of the last label."""

    tasks = frozenset({Task.CLASSIFY, Task.RERANK})

    def __init__(self, model: PreTrainedModel, reader: Reader, pad: int) -> None:
        self._model = model
        self._reader = reader
        self._pad = pad
        self._names: dict[int, str] = {int(index): name for index, name in (model.config.id2label or {}).items()}
        self._apart = model.config.num_labels == 1 or model.config.problem_type == "multi_label_classification"

    def items(self, request: Request) -> list[Item]:
        """An item a text; for rerank, a pair a document."""
        if request.task == Task.RERANK:
            return self._reader.pairs(request.input["query"], request.input["documents"], "documents")
        return self._reader.texts(_texts(request), "texts")

    @torch.inference_mode()
    def run(self, batch: Sequence[Item]) -> torch.Tensor:
        """A score a label, 0.0-1.0: each on its own where several may hold, else adding up to 1."""
        logits: torch.Tensor = self._model(**collate(batch, self._pad, self._model.device)).logits.float()
        return (logits.sigmoid() if self._apart else logits.softmax(-1)).cpu()

    def result(self, request: Request, rows: torch.Tensor) -> JsonObject:
        """``labels``: the best few a text, best first; or ``results``."""
        if request.task == Task.RERANK:
            return _ranking(request, rows[:, -1].tolist())
        best = rows.topk(min(request.params.get("top_k", 1), rows.shape[-1]))
        return {
            "labels": [
                [{"label": self._names[index], "score": score} for index, score in zip(indices, scores, strict=True)]
                for indices, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
        }


def _texts(request: Request) -> list[str]:
    return [request.input["text"]] if "text" in request.input else list(request.input["texts"])


def _ranking(request: Request, scores: list[float]) -> JsonObject:
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: request.params.get("top_n")]
    return {"results": [{"index": index, "score": scores[index]} for index in order]}
