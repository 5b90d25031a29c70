"""What the service is for: real jobs on real models, end to end."""

from __future__ import annotations

import math

import httpx
import pytest

from tests.support.stack import Stack, until

pytestmark = [pytest.mark.models, pytest.mark.timeout(300)]

QUESTIONS = [f"Name one city in {country}." for country in ("France", "Japan", "Kenya", "Peru", "India", "Canada")]


def chat(text: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}]}


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def test_prompts_are_answered_together_in_one_batch(stack: Stack) -> None:
    jobs = stack.bulk(
        [{"model": "smollm2-135m", "input": chat(text), "params": {"max_tokens": 12}} for text in QUESTIONS]
    )
    done = [stack.finished(job) for job in jobs]
    assert [job["state"] for job in done] == ["succeeded"] * len(jobs)
    assert all(job["result"]["text"].strip() for job in done)
    assert max(job["timing"]["largest_batch"] for job in done) > 1
    assert all(job["usage"]["completion_tokens"] == len(job["result"]["tokens"]) for job in done)
    assert all(job["usage"]["prompt_tokens"] > 0 for job in done)


def test_the_same_greedy_prompt_gets_the_same_answer_alone_and_in_company(stack: Stack) -> None:
    params = {"max_tokens": 16}
    alone = stack.finished(stack.submit("smollm2-135m", chat("Count to five."), params=params)["id"])
    company = [
        {"model": "smollm2-135m", "input": chat(text), "params": params} for text in [*QUESTIONS, "Count to five."]
    ]
    together = stack.finished(stack.bulk(company)[-1])
    assert together["result"]["text"] == alone["result"]["text"]


def test_sentences_become_vectors_of_unit_length_and_near_ones_are_near(stack: Stack) -> None:
    texts = ["A cat sits on the mat.", "A kitten is sitting on a rug.", "Interest rates rose again."]
    job = stack.finished(stack.submit("minilm-l6", {"texts": texts})["id"])
    cat, kitten, rates = job["result"]["embeddings"]
    assert len(cat) == 384
    assert math.isclose(math.hypot(*cat), 1.0, abs_tol=1e-5)
    assert dot(cat, kitten) > dot(cat, rates) + 0.3


def test_documents_are_ranked(stack: Stack) -> None:
    given = {"query": "feline pets", "documents": ["interest rates", "cats at home", "the moon"]}
    job = stack.finished(stack.submit("minilm-l6", given, task="rerank", params={"top_n": 2})["id"])
    best, second = job["result"]["results"]
    assert best["index"] == 1
    assert best["score"] > second["score"]


def test_a_long_generation_does_not_keep_an_embedding_waiting(stack: Stack) -> None:
    story = {"model": "smollm2-135m", "input": chat("Tell a very long story."), "params": {"max_tokens": 1500}}
    stories = stack.bulk([story] * 4)
    until(lambda: stack.job(stories[0])["state"] == "running", "a story that is being told")
    embedding = stack.finished(stack.submit("minilm-l6", {"text": "quick"})["id"])
    assert embedding["state"] == "succeeded"
    assert stack.job(stories[0])["state"] == "running"
    for job in stories:
        assert stack.http.post(f"/api/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
    # The slot is free again: what comes next does not wait for stories nobody wants.
    assert (
        stack.finished(stack.submit("smollm2-135m", chat("Hi"), params={"max_tokens": 2})["id"])["state"] == "succeeded"
    )


def test_tokens_are_streamed_as_they_come_and_add_up_to_the_answer(stack: Stack) -> None:
    job = stack.submit("smollm2-135m", chat("Describe the sea."), params={"max_tokens": 24})
    text, states = "", []
    with stack.http.stream("GET", f"/api/v1/jobs/{job['id']}/events") as answer:
        kind = ""
        for line in answer.iter_lines():
            kind = line.removeprefix("event: ") if line.startswith("event: ") else kind
            if line.startswith("data: "):
                data = httpx.Response(200, content=line.removeprefix("data: ")).json()
                text += data["text"] if kind == "token" else ""
                states += [data["state"]] if kind == "state" else []
    assert states == ["queued", "running", "succeeded"]
    assert text == stack.job(job["id"])["result"]["text"]


def test_a_prompt_longer_than_the_context_fails_cleanly(stack: Stack) -> None:
    job = stack.finished(stack.submit("smollm2-135m", {"prompt": "long " * 20_000})["id"])
    assert job["state"] == "failed"
    assert job["error"]["code"] == "context_length_exceeded"
    assert job["attempt"] == 1


def test_waiting_with_the_request_answers_with_the_result(stack: Stack) -> None:
    answer = stack.http.post(
        "/api/v1/jobs", json={"model": "echo", "input": {"say": "hi"}}, headers={"Prefer": "wait=30"}
    )
    assert answer.status_code == 200
    assert answer.json()["result"] == {"say": "hi"}
