"""The models of the default catalogue: what they say is what plain transformers says."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ktqueue.job import Task
from tests.support.engines import Run, causal_engine, embed, generate, greedy
from worker.engines.base import Request
from worker.engines.causal.engine import CausalEngine
from worker.engines.causal.executor import OneDevice
from worker.engines.encoder import EncoderEngine

pytestmark = pytest.mark.models

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = [
    "What is the capital of France?",
    "Name three colours.",
    "Write one sentence about the sea, and tell me why people who live by it love it so much.",
    "What is 2 + 2?",
    "Tell me a story about a fox.",
    "Who wrote Hamlet?",
]


def model_of(engine: CausalEngine) -> PreTrainedModel:
    executor = engine._executor
    assert isinstance(executor, OneDevice)
    return executor._stage._part.model


def tokenizer_of(engine: CausalEngine) -> PreTrainedTokenizerBase:
    return engine._prompts._tokenizer


def chat(job_id: str, question: str, **params: object) -> Request:
    return Request(job_id, Task.GENERATE, {"messages": [{"role": "user", "content": question}]}, dict(params))


def reference(engine: CausalEngine, question: str, most: int) -> list[int]:
    """What transformers answers to this question alone, greedily."""
    return greedy(model_of(engine), engine._prompts.read(chat("", question)), most)


def test_greedy_tokens_are_those_of_generate_whoever_joins_or_leaves(smollm: CausalEngine) -> None:
    lengths = [12, 3, 16, 9, 14, 6]
    run = Run(smollm)
    for number, (question, most) in enumerate(zip(QUESTIONS, lengths, strict=True)):
        run.submit(chat(str(number), question, max_tokens=most))
        run.step()
    run.submit(chat("leaver", "Count to a hundred.", max_tokens=90))
    run.step()
    run.cancel("leaver")
    run.end()
    for number, (question, most) in enumerate(zip(QUESTIONS, lengths, strict=True)):
        result = run.result(str(number))
        assert result["tokens"] == reference(smollm, question, most)
        assert result["text"] == tokenizer_of(smollm).decode(result["tokens"], skip_special_tokens=True)
        assert run.texts[str(number)] == result["text"]
    assert "Paris" in run.result("0")["text"]


def test_the_default_catalogue_holds_as_much_as_the_documents_say(smollm: CausalEngine) -> None:
    room, config = smollm.room(), model_of(smollm).config
    assert room.tokens is not None
    held = room.tokens * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2 * 4
    told = " ".join((ROOT / "docs" / "engine.md").read_text(encoding="utf-8").split())
    assert f"smollm2-135m: {room.tokens // 16} blocks, {held / 1e9:.1f} GB of keys and values;" in told
    assert f"s; {room}" in told
    catalogue = (ROOT / "models.toml").read_text(encoding="utf-8")
    assert f"# {round(room.tokens, -3):,} tokens of keys and values" in catalogue


def test_stop_strings_cut_exactly(smollm: CausalEngine) -> None:
    whole = Run(smollm, chat("a", QUESTIONS[0], max_tokens=12)).end().result("a")["text"]
    assert "capital of France" in whole
    stops = {"mid-token": "apit", "across tokens": "pital of Fr", "not there": "capital of Spain", "first": whole[:2]}
    run = Run(smollm, *[chat(name, QUESTIONS[0], max_tokens=12, stop=["zzz", stop]) for name, stop in stops.items()])
    run.end()
    for name, stop in stops.items():
        assert run.result(name)["text"] == whole.partition(stop)[0] == run.texts.get(name, "")
    assert run.result("across tokens")["finish_reason"] == "stop"


def test_a_seed_gives_the_same_text_in_any_company(smollm: CausalEngine) -> None:
    wish = {"max_tokens": 12, "temperature": 1.0, "top_p": 0.95, "seed": 11}
    alone = Run(smollm, chat("a", QUESTIONS[4], **wish)).end().result("a")["text"]
    others = [chat(f"r{index}", question, max_tokens=8, temperature=0.7) for index, question in enumerate(QUESTIONS)]
    crowd = Run(smollm, *others)
    crowd.step()
    crowd.submit(chat("a", QUESTIONS[4], **wish), chat("b", QUESTIONS[4], **wish | {"seed": 12}))
    crowd.end()
    assert crowd.result("a")["text"] == alone
    assert crowd.result("b")["text"] != alone


@pytest.mark.parametrize("seed", range(3))
def test_random_tokens_are_told_piece_by_piece_as_they_are_whole(smollm: CausalEngine, seed: int) -> None:
    engine = causal_engine(model_of(smollm), tokenizer_of(smollm), context=128)
    run = Run(engine, generate("a", "日本語 – ", max_tokens=40, temperature=2.0, seed=seed)).end()
    result = run.result("a")
    assert run.texts["a"] == result["text"] == tokenizer_of(smollm).decode(result["tokens"], skip_special_tokens=True)


def test_embeddings_are_those_of_plain_transformers(minilm: EncoderEngine) -> None:
    source = random.Random(1)
    words = ["the", "of", "to", "and", "a", "in", "is", "it", "you", "that", "he", "was", "for", "on", "are", "with"]
    texts = [" ".join(source.choices(words, k=max(1, round(source.lognormvariate(3, 1))))) for _ in range(40)]
    texts += ["", " ".join(["long"] * 400), "Zoë says 你好 👋"]
    run = Run(minilm, embed("half", *texts[::2]), embed("other", *texts[1::2])).end()
    rows = torch.empty(len(texts), 384)
    rows[::2] = torch.tensor(run.result("half")["embeddings"])
    rows[1::2] = torch.tensor(run.result("other")["embeddings"])
    assert run.finished["half"].largest_batch == 2
    for text, row in zip(texts, rows, strict=True):
        inputs = minilm._head._reader._tokenizer(text, padding=False, truncation=False, return_tensors="pt")  # type: ignore[attr-defined]
        with torch.inference_mode():
            hidden = minilm._head._model(**inputs).last_hidden_state[0]  # type: ignore[attr-defined]
        expected = torch.nn.functional.normalize(hidden.mean(0), dim=0)
        assert (row - expected).abs().max() <= 1e-5
