"""What batching is worth to a model: our engines against plain transformers in the same process, on a CPU, in fp32.

The plain side is what a competent person writes: tokenizer, model, `inference_mode`; one input at a time, or in
batches. It shares our one setting of OpenMP, which helps both. Before anything is timed, both have to agree.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from benchmarks.figures import Figure, at_least_times, compared
from benchmarks.mixed import WORDS, PlainCausal, workload
from ktqueue.job import JsonObject, Task
from ktqueue.models import ModelSpec, load_catalogue
from ktqueue.settings import Settings
from worker.engines.base import Engine, Failed, Finished, Request
from worker.engines.registry import load

Answers: TypeAlias = list[list[Any]]
"""For each input a vector, or the tokens of an answer."""

Sides: TypeAlias = Mapping[str, Callable[[], Answers]]

TEXTS, LONGEST = 192, 256
CLOSE = 1e-5
AT_ONCE = 2048
"""Rows of a matrix product, where a CPU has long reached its peak."""


def measure(*, quick: bool) -> list[Figure]:
    """Texts and tokens per second of both sides."""
    return [*_embed(1 if quick else 5), *_generate(1 if quick else 3)]


def _embed(rounds: int) -> list[Figure]:
    spec = _spec("minilm-l6")
    engine, plain = load(spec, spec.places[0]), PlainEncoder(spec.weights().name)
    texts = _texts()
    by_length = sorted(texts, key=len)

    def ours() -> Answers:
        results = _run(engine, Task.EMBED, [({"text": text}, {}) for text in texts])
        return [result["embeddings"][0] for result in results]

    _agree(ours(), plain.embed(texts, 1), within=CLOSE)
    sides: Sides = {
        "ours": ours,
        "one": lambda: plain.embed(texts, 1),
        "sorted": lambda: plain.embed(by_length, 32),
        "as they came": lambda: plain.embed(texts, 32),
        "floor": lambda: plain.products(texts),
    }
    rates = _rates(sides, rounds, len(texts))
    what = "embed, texts/s, against"
    return [
        at_least_times(f"{what} one at a time", rates["ours"], rates["one"], 5),
        at_least_times(f"{what} batches of 32, sorted", rates["ours"], rates["sorted"], 2),
        compared(f"{what} batches of 32, as they came", rates["ours"], rates["as they came"]),
        compared(f"{what} nothing but the products", rates["ours"], rates["floor"]),
    ]


def _generate(rounds: int) -> list[Figure]:
    spec = _spec("smollm2-135m")
    engine, plain = load(spec, spec.places[0]), PlainCausal(spec)
    undrafted = load(spec.model_copy(update={"draft_tokens": 0}), spec.places[0])
    asked = workload()

    def ours(engine: Engine = engine) -> Answers:
        results = _run(engine, Task.GENERATE, [({"prompt": each.prompt}, each.params) for each in asked])
        return [result["tokens"] for result in results]

    tokens = ours()
    _agree(tokens, plain.generate(asked, 1), within=0)
    _agree(ours(undrafted), tokens, within=0)
    sides: Sides = {
        "ours": ours,
        "undrafted": lambda: ours(undrafted),
        "one": lambda: plain.generate(asked, 1),
        "padded": lambda: plain.generate(asked, len(asked)),
    }
    rates = _rates(sides, rounds, sum(len(answer) for answer in tokens))
    what = "generate, tokens/s, against"
    return [
        at_least_times(f"{what} one at a time", rates["ours"], rates["one"], 6),
        at_least_times(f"{what} one padded batch", rates["ours"], rates["padded"], 1.5),
        compared(f"{what} ours without drafts", rates["ours"], rates["undrafted"]),
    ]


def _spec(alias: str) -> ModelSpec:
    """As the default catalogue has it, but on the CPU."""
    return load_catalogue(Settings().models)[alias].model_copy(update={"device": "cpu"})


def _texts() -> list[str]:
    """Of log-normal length: most are short, a few are long."""
    source = random.Random(0)
    lengths = [max(1, min(LONGEST - 2, round(source.lognormvariate(3.2, 0.9)))) for _ in range(TEXTS)]
    return [" ".join(source.choices(WORDS, k=length)) for length in lengths]


def _run(engine: Engine, task: Task, asked: Sequence[tuple[JsonObject, JsonObject]]) -> list[JsonObject]:
    """Inputs and their params, all at once through an engine; the results in order."""
    for index, (data, params) in enumerate(asked):
        engine.submit(Request(str(index), task, data, params))
    results: dict[str, JsonObject] = {}
    while len(results) < len(asked):
        for output in engine.step():
            assert not isinstance(output, Failed), output.error.message
            if isinstance(output, Finished):
                results[output.id] = output.result
    return [results[str(index)] for index in range(len(asked))]


def _agree(ours: Answers, theirs: Answers, *, within: float) -> None:
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if len(mine) != len(other) or any(abs(a - b) > within for a, b in zip(mine, other, strict=True)):
            raise RuntimeError(f"input {index}: ours gives {mine[:5]}…, plain transformers {other[:5]}…")


def _rates(sides: Sides, rounds: int, amount: int) -> dict[str, list[float]]:
    """Per second, round by round; in a round the sides take turns."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            rates[name].append(amount / (time.perf_counter() - began))
    return rates


class PlainEncoder:
    """Mean-pooled embeddings, as the model's card shows how to make them."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 - other scenarios do without torch

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModel.from_pretrained(folder).eval()

    def embed(self, texts: Sequence[str], batch: int) -> Answers:
        """In batches, as they come."""
        import torch  # noqa: PLC0415 - as above

        vectors: Answers = []
        with torch.inference_mode():
            for start in range(0, len(texts), batch):
                inputs = self._tokenizer(list(texts[start : start + batch]), padding=True, return_tensors="pt")
                hidden = self._model(**inputs).last_hidden_state
                mask = inputs["attention_mask"].unsqueeze(-1)
                means = (hidden * mask).sum(1) / mask.sum(1)
                vectors += torch.nn.functional.normalize(means, dim=-1).tolist()
        return vectors

    def products(self, texts: Sequence[str]) -> Answers:
        """Only the matrix products of the texts' own tokens: no engine of fp32 on this machine can be faster."""
        import torch  # noqa: PLC0415 - as above

        tokens = sum(len(ids) for ids in self._tokenizer(list(texts))["input_ids"])
        weights = [layer.weight for layer in self._model.encoder.modules() if isinstance(layer, torch.nn.Linear)]
        with torch.inference_mode():
            for start in range(0, tokens, AT_ONCE):
                rows = min(AT_ONCE, tokens - start)
                inputs = {width: torch.ones(rows, width) for width in {weight.shape[1] for weight in weights}}
                for weight in weights:
                    torch.nn.functional.linear(inputs[weight.shape[1]], weight)
        return []


if __name__ == "__main__":
    from benchmarks.figures import show

    show(measure(quick=False))
