"""The encoder engine: its numbers are those of plain transformers, one text at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaModel,
)

from ktqueue.batching import Rules
from ktqueue.errors import ConfigurationError
from ktqueue.job import JsonObject, Task, Usage
from ktqueue.models import ModelSpec, TaskName
from tests.support.engines import Run, embed, loaded
from tests.support.tiny_models import VOCABULARY, byte_tokenizer, save_causal, save_classifier, tiny_llama
from worker.engines.base import Engine, Progress, Request
from worker.engines.encoder import EncoderEngine
from worker.engines.texts import Item
from worker.engines.trouble import Refused

TEXTS = ["a", "the lazy dog", "over hills and far away, to see what is there", "", "Zoë, 你好"]


def engine(folder: Path, *tasks: TaskName, tokens_per_step: int = 64, context: int | None = None) -> Engine:
    spec = ModelSpec(
        alias="e",
        engine="encoder",
        source=f"path:{folder}",
        tasks=tasks,
        tokens_per_step=tokens_per_step,
        context=context,
        device="cpu",
    )
    return loaded(spec)


def vector(folder: Path, text: str, pooling: str = "mean") -> torch.Tensor:
    """A text's vector, not normalised, from the model on its own."""
    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        hidden = model(**byte_tokenizer(encoder=True)(text, return_tensors="pt")).last_hidden_state[0]
    vectors: dict[str, torch.Tensor] = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}
    return vectors[pooling]


def close(actual: object, expected: torch.Tensor) -> bool:
    return torch.allclose(torch.tensor(actual), expected, rtol=0, atol=1e-5)


def test_embeddings_are_means_of_length_one(encoder_folder: Path) -> None:
    run = Run(engine(encoder_folder), embed("a", *TEXTS), Request("b", Task.EMBED, {"text": TEXTS[2]}, {})).end()
    expected = torch.stack([torch.nn.functional.normalize(vector(encoder_folder, text), dim=0) for text in TEXTS])
    assert close(run.result("a")["embeddings"], expected)
    assert close(run.result("b")["embeddings"], expected[2:3])
    tokens = sum(len(text.encode()) + 2 for text in TEXTS)
    assert run.finished["a"].usage == Usage(prompt_tokens=tokens, completion_tokens=0)


def test_embeddings_can_be_left_as_they_are_or_cut_short(encoder_folder: Path) -> None:
    text = TEXTS[1]
    run = Run(
        engine(encoder_folder),
        embed("raw", text, normalize=False),
        embed("short", text, dimensions=5),
        embed("both", text, dimensions=5, normalize=False),
        embed("too many", text, dimensions=33),
    ).end()
    raw = vector(encoder_folder, text)
    assert close(run.finished["raw"].result["embeddings"][0], raw)
    assert close(run.finished["short"].result["embeddings"][0], torch.nn.functional.normalize(raw[:5], dim=0))
    assert close(run.finished["both"].result["embeddings"][0], raw[:5])
    assert run.errors["too many"].message == "params.dimensions is 33; the model's embeddings have 32"


@pytest.mark.parametrize(("mode", "pooling"), [("cls_token", "cls"), ("lasttoken", "last"), ("mean_tokens", "mean")])
def test_pooling_is_what_the_file_beside_the_weights_says(
    encoder_folder: Path, tmp_path: Path, mode: str, pooling: str
) -> None:
    folder = with_pooling(encoder_folder, tmp_path, {f"pooling_mode_{mode}": True, "pooling_mode_max_tokens": False})
    run = Run(engine(folder), embed("a", *TEXTS, normalize=False)).end()
    expected = torch.stack([vector(encoder_folder, text, pooling) for text in TEXTS])
    assert close(run.result("a")["embeddings"], expected)


@pytest.mark.parametrize(
    ("mode", "pooling"), [("cls", "cls"), ("lasttoken", "last"), ("mean", "mean"), (["cls"], "cls")]
)
def test_pooling_is_told_in_one_entry_by_newer_files(
    encoder_folder: Path, tmp_path: Path, mode: str | list[str], pooling: str
) -> None:
    entries = {"embedding_dimension": 32, "pooling_mode": mode, "include_prompt": True}
    run = Run(engine(with_pooling(encoder_folder, tmp_path, entries)), embed("a", *TEXTS, normalize=False)).end()
    expected = torch.stack([vector(encoder_folder, text, pooling) for text in TEXTS])
    assert close(run.result("a")["embeddings"], expected)


@pytest.mark.parametrize(
    ("entries", "modes"),
    [
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode": "max"}, "max"),
        ({"pooling_mode": ["mean", "max"]}, "mean_tokens, max"),
    ],
)
def test_a_pooling_that_is_not_known_is_refused_at_loading(
    encoder_folder: Path, tmp_path: Path, entries: dict[str, Any], modes: str
) -> None:
    folder = with_pooling(encoder_folder, tmp_path, entries)
    with pytest.raises(ConfigurationError, match=f"'e': can't pool by {modes}; can by mean_tokens"):
        engine(folder)


def test_embeddings_that_go_through_more_than_is_known_are_refused_at_loading(
    encoder_folder: Path, tmp_path: Path
) -> None:
    folder = with_pooling(encoder_folder, tmp_path, {"pooling_mode_mean_tokens": True})
    parts = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", "Normalize")]
    (folder / "modules.json").write_text(json.dumps(parts))
    assert Run(engine(folder), embed("a", "tea")).end().finished
    (folder / "modules.json").write_text(json.dumps([*parts, {"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ConfigurationError, match="'e': its embeddings go through Dense; can do Transformer, Pooling"):
        engine(folder)


def with_pooling(encoder_folder: Path, tmp_path: Path, entries: Mapping[str, Any]) -> Path:
    folder = shutil.copytree(encoder_folder, tmp_path / "model")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(entries))
    return folder


def test_documents_are_ranked_by_their_cosine_with_the_query(encoder_folder: Path) -> None:
    query, documents = "lazy dogs", TEXTS[:3]
    run = Run(engine(encoder_folder, "embed", "rerank"), rerank("all", query, documents), embed("x", *documents))
    run.submit(rerank("two", query, documents, top_n=2))
    run.end()
    scores = {
        index: float(torch.cosine_similarity(vector(encoder_folder, query), vector(encoder_folder, text), dim=0))
        for index, text in enumerate(documents)
    }
    assert_ranking(run.result("all"), scores)
    assert run.result("two")["results"] == run.result("all")["results"][:2]
    assert run.finished["x"].largest_batch > 1


def rerank(job_id: str, query: str, documents: Sequence[str], **params: int) -> Request:
    return Request(job_id, Task.RERANK, {"query": query, "documents": list(documents)}, dict(params))


def assert_ranking(result: JsonObject, scores: dict[int, float]) -> None:
    assert [entry["index"] for entry in result["results"]] == sorted(scores, key=lambda index: -scores[index])
    for entry in result["results"]:
        assert entry["score"] == pytest.approx(scores[entry["index"]], abs=1e-5)


def test_a_classifier_gives_its_labels_best_first(classifier_folder: Path) -> None:
    run = Run(
        engine(classifier_folder, "classify"),
        Request("best", Task.CLASSIFY, {"texts": TEXTS}, {}),
        Request("all", Task.CLASSIFY, {"text": TEXTS[1]}, {"top_k": 10}),
    ).end()
    names = ["bad", "so-so", "good"]
    for text, labels in zip(TEXTS, run.result("best")["labels"], strict=True):
        chances = logits(classifier_folder, text).softmax(-1)
        assert [label["label"] for label in labels] == [names[int(chances.argmax())]]
        assert labels[0]["score"] == pytest.approx(float(chances.max()), abs=1e-5)
    (labels,) = run.result("all")["labels"]
    chances = logits(classifier_folder, TEXTS[1]).softmax(-1)
    assert [label["label"] for label in labels] == [names[index] for index in chances.argsort(descending=True)]


@pytest.mark.parametrize("names", [{1: "neg", 2: "pos"}, {0: "neg", 2: "pos"}])
def test_labels_that_are_not_counted_from_nought_are_refused_at_loading(tmp_path: Path, names: dict[int, str]) -> None:
    save_classifier(tmp_path, names)
    told = ", ".join(map(str, names))
    with pytest.raises(ConfigurationError, match=f"'e': its configuration names the labels {told}, not 0 to 1"):
        engine(tmp_path, "classify")


def test_labels_that_do_not_exclude_each_other_are_scored_apart(classifier_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(classifier_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))
    run = Run(engine(folder, "classify"), Request("a", Task.CLASSIFY, {"text": "tea"}, {"top_k": 1})).end()
    ((label,),) = run.result("a")["labels"]
    assert label["score"] == pytest.approx(float(logits(classifier_folder, "tea").sigmoid().max()), abs=1e-5)


def test_a_cross_encoder_reads_query_and_document_together(scorer_folder: Path) -> None:
    run = Run(engine(scorer_folder, "rerank"), rerank("a", "lazy dogs", TEXTS[:3])).end()
    scores = {index: float(logits(scorer_folder, "lazy dogs", text).sigmoid()) for index, text in enumerate(TEXTS[:3])}
    assert_ranking(run.result("a"), scores)


@pytest.mark.parametrize("pad", [None, -1, 5])
def test_a_decoder_scores_a_text_by_its_last_token_whatever_fills_up_its_batch(tmp_path: Path, pad: int | None) -> None:
    torch.manual_seed(8)
    model = LlamaForSequenceClassification(tiny_llama().config)
    model.config.pad_token_id = pad
    save_causal(model, tmp_path)
    run = Run(engine(tmp_path, "classify"), Request("a", Task.CLASSIFY, {"texts": TEXTS[:3]}, {"top_k": 2})).end()
    for text, labels in zip(TEXTS, run.result("a")["labels"], strict=False):
        with torch.inference_mode():
            alone = model(byte_tokenizer()(text, return_tensors="pt").input_ids).logits[0].softmax(-1)
        assert [label["score"] for label in labels] == pytest.approx(alone.sort(descending=True).values.tolist())


def logits(folder: Path, text: str, second: str | None = None) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        answer: torch.Tensor = model(**byte_tokenizer(encoder=True)(text, second, return_tensors="pt")).logits[0]
    return answer


def test_weights_that_can_not_do_a_task_are_refused_at_loading(encoder_folder: Path, classifier_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="model 'e': these weights can't classify; they can embed, rerank"):
        engine(encoder_folder, "embed", "classify")
    with pytest.raises(ConfigurationError, match="model 'e': these weights can't embed; they can classify, rerank"):
        engine(classifier_folder, "classify", "embed")


def test_a_text_over_the_context_is_never_cut(encoder_folder: Path) -> None:
    run = Run(engine(encoder_folder), embed("a", "x", "x" * 63), embed("fits", "x" * 62)).end()
    assert run.errors["a"].code == "context_length_exceeded"
    assert run.errors["a"].message == "texts[1] has 65 tokens; the model takes at most 64"
    assert "fits" in run.finished
    run = Run(engine(encoder_folder, "rerank", context=16), rerank("a", "x" * 15, ["y"])).end()
    assert run.errors["a"].message == "query[0] has 17 tokens; the model takes at most 16"


def test_positions_that_are_counted_from_behind_padding_are_fewer(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    RobertaModel(RobertaConfig(vocab_size=VOCABULARY, max_position_embeddings=16, **sizes)).save_pretrained(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(tmp_path)
    run = Run(engine(tmp_path), embed("fits", "x" * 14), embed("long", "x" * 15)).end()
    assert list(run.finished) == ["fits"]
    assert run.errors["long"].message == "texts[0] has 15 tokens; the model takes at most 14"


def test_a_request_of_many_batches_tells_its_progress(encoder_folder: Path) -> None:
    run = Run(engine(encoder_folder, tokens_per_step=16), embed("a", *["x" * 12] * 4))
    assert run.step() == [Progress("a", 1, 4)]
    assert run.step() == [Progress("a", 2, 4)]
    run.end()
    assert len(run.result("a")["embeddings"]) == 4


class Fragile:
    """A head that fails on any batch with a text of one length, sees nothing in another's, and takes no three."""

    tasks = frozenset({Task.EMBED})

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.batches: list[list[int]] = []

    def items(self, request: Request) -> list[Item]:
        if not request.input["texts"]:
            raise Refused("texts is empty")
        return [Item([0] * len(text), None) for text in request.input["texts"]]

    def run(self, batch: Sequence[Item]) -> torch.Tensor:
        lengths = [len(item.ids) for item in batch]
        self.batches.append(lengths)
        if 13 in lengths:
            raise self._error
        return torch.tensor([[torch.nan if length == 7 else float(length)] for length in lengths])

    def result(self, request: Request, rows: torch.Tensor) -> JsonObject:
        if rows.shape[0] == 3:
            raise self._error
        return {"rows": rows.flatten().tolist()}


@pytest.mark.parametrize(
    ("error", "retryable", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True, "the device ran out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True, "the device ran out of memory"),
        (IndexError("no such\n  trace"), False, "IndexError: no such"),
    ],
)
def test_a_request_that_fails_a_batch_fails_alone(error: Exception, retryable: bool, message: str) -> None:
    fragile = EncoderEngine(Fragile(error), max_batch=8, rules=Rules(budget=100, overhead=100))
    run = Run(fragile, embed("a", "x", "xx"), embed("bad", "x" * 13, "x"), embed("b", "xxx")).end()
    assert {job_id: (error.message, error.retryable) for job_id, error in run.errors.items()} == {
        "bad": (message, retryable)
    }
    assert run.finished["a"].result == {"rows": [1.0, 2.0]}
    assert run.finished["b"].result == {"rows": [3.0]}
    assert fragile.capacity() == 8
    together = Run(fragile, embed("c", "x"), embed("d", "x")).end()
    assert together.finished["c"].largest_batch == 2


def test_a_row_that_is_not_a_number_fails_its_request_alone() -> None:
    head = Fragile(RuntimeError())
    run = Run(
        EncoderEngine(head, max_batch=8, rules=Rules(budget=100, overhead=100)), embed("a", "x"), embed("bad", "x" * 7)
    )
    run.end()
    assert {job_id: error.code for job_id, error in run.errors.items()} == {"bad": "engine_error"}
    assert run.finished["a"].result == {"rows": [1.0]}
    assert head.batches == [[7, 1]]


def test_a_request_whose_result_can_not_be_made_fails_alone() -> None:
    head = Fragile(KeyError("no such label"))
    fragile = EncoderEngine(head, max_batch=8, rules=Rules(budget=100, overhead=100))
    run = Run(fragile, embed("a", "x"), embed("bad", "x", "x", "x"), embed("b", "xx")).end()
    assert {job_id: error.message for job_id, error in run.errors.items()} == {"bad": "KeyError: 'no such label'"}
    assert sorted(run.finished) == ["a", "b"]
    assert fragile.capacity() == 8


def test_nothing_to_run_is_refused() -> None:
    run = Run(
        EncoderEngine(Fragile(RuntimeError()), max_batch=8, rules=Rules(budget=100, overhead=100)), embed("a")
    ).end()
    assert run.errors["a"].code == "invalid_request"
