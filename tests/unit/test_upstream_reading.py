"""What servers send: read strictly, and asked for in their own words."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktqueue.job import Task, Usage
from worker.engines.base import Request
from worker.engines.upstream.asking import body_of, path_of
from worker.engines.upstream.kinds import DIALECTS
from worker.engines.upstream.outcome import Piece
from worker.engines.upstream.reading import LONGEST_SAID, Nonsense, chunk_of, said_in, vectors_of
from worker.engines.upstream.refusal import retry_after

NAMES = ["choices", "index", "text", "delta", "content", "finish_reason", "logprobs", "usage", "error", "message"]
NAMES += ["data", "tokens", "token_logprobs", "top_logprobs", "token", "logprob", "prompt_tokens", "embedding"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inside,
            max_size=5,
        )
    ),
    max_leaves=20,
)


def event(**given: Any) -> bytes:
    return orjson.dumps(given)


@given(document=JSON | st.fixed_dictionaries({"choices": st.lists(JSON)}) | st.fixed_dictionaries({"data": JSON}))
def test_whatever_comes_is_an_answer_or_nonsense(document: Any) -> None:
    for read in (lambda data: chunk_of(data, 2), lambda data: vectors_of(data, 2)):
        with suppress(Nonsense):
            read(orjson.dumps(document))
    assert len(said_in(document)) <= LONGEST_SAID


def test_an_error_nested_deeper_than_it_could_be_written_is_none_to_repeat() -> None:
    deep = b"[" * 300 + b"]" * 300
    assert said_in(orjson.loads(deep)) == ""
    with pytest.raises(Nonsense, match="it broke off"):
        chunk_of(b'{"error": ' + deep + b"}", 1)


@given(data=st.binary(max_size=50))
def test_bytes_that_are_no_json_are_nonsense(data: bytes) -> None:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        with pytest.raises(Nonsense):
            chunk_of(data, 1)


def test_the_shapes_of_both_apis_and_of_ktransformers_completions_are_read() -> None:
    chat = event(choices=[{"index": 1, "delta": {"content": "a"}, "finish_reason": None}])
    old = event(choices=[{"index": 0, "text": "b", "finish_reason": "length"}])
    odd = event(choices=[{"delta": {"content": ""}, "finish_reason": ""}])
    assert chunk_of(chat, 2).pieces == (Piece(1, "a"),)
    assert chunk_of(old, 1).pieces == (Piece(0, "b", "length"),)
    assert chunk_of(odd, 1).pieces == (Piece(0, ""),)
    assert chunk_of(event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4}), 1).usage == Usage(3, 4)


def test_chances_are_read_from_both_apis() -> None:
    one = {"token": "a", "logprob": -0.5}
    chat = {"content": [one | {"bytes": None, "top_logprobs": [one, {"token": "b", "logprob": -2}]}]}
    old = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -2, "a": -0.5}], "text_offset": [0]}
    for told in (chat, old):
        [piece] = chunk_of(event(choices=[{"index": 0, "text": "a", "logprobs": told}]), 1).pieces
        assert piece.chances == (one | {"top": [one, {"token": "b", "logprob": -2}]},)


@pytest.mark.parametrize(
    "choice",
    [
        {"index": 1, "text": "a"},
        {"index": -1, "text": "a"},
        {"text": 5},
        {"finish_reason": "abort"},
        {"finish_reason": 7},
        {"logprobs": {"content": [{"token": "a"}]}},
        {"logprobs": {"tokens": ["a"], "token_logprobs": []}},
    ],
)
def test_a_choice_that_is_not_as_it_must_be_is_nonsense(choice: dict[str, Any]) -> None:
    with pytest.raises(Nonsense):
        chunk_of(event(choices=[choice]), 1)


def test_an_error_in_the_stream_is_said() -> None:
    with pytest.raises(Nonsense, match="out of memory"):
        chunk_of(event(error={"message": "out of\nmemory"}), 1)


def test_vectors_come_in_the_order_of_their_texts() -> None:
    rows = [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1]}]
    assert vectors_of(event(data=rows), 2).rows == [[1.0], [2.0]]
    for wrong in (rows[:1], [rows[0], rows[0]], [rows[0], {"index": 0, "embedding": [1, 2]}]):
        with pytest.raises(Nonsense):
            vectors_of(event(data=wrong), 2)


def test_messages_are_one_line_and_bounded() -> None:
    assert said_in({"error": {"message": "a\n\x00b  c"}}) == "a b c"
    assert said_in({"detail": "x" * 10_000}) == "x" * LONGEST_SAID
    assert said_in({"message": "m"}) == said_in("m") == "m"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "-7"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "9" * 40}, 999_999_999.0),
        ({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT", "Date": "Fri, 31 Dec 1999 23:59:29 GMT"}, 30.0),
        ({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, None),
        ({"Retry-After": "Fri, 99999999999999999999 Dec 1999 23:59:59 GMT"}, None),
    ],
)
def test_retry_after_is_a_number_or_a_date_by_the_servers_clock(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(httpx.Headers(headers)) == seconds


def test_a_request_is_asked_for_in_the_words_of_the_server() -> None:
    params = {"stop": "x", "top_k": 5, "repetition_penalty": 1.5, "logprobs": True, "top_p": 1.0}
    request = Request("a", Task.GENERATE, {"prompt": "p"}, params)
    body = body_of(request, "m", DIALECTS["llama.cpp"])
    assert path_of(request) == "completions"
    assert body == {
        "model": "m",
        "prompt": "p",
        "max_tokens": 256,
        "temperature": 0.0,
        "top_p": 1.0,
        "min_p": 0.0,
        "stop": ["x"],
        "top_k": 5,
        "repeat_penalty": 1.5,
        "logprobs": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_a_job_does_not_say_is_said_to_the_server_for_it_has_defaults_of_its_own() -> None:
    request = Request("a", Task.GENERATE, {"prompt": "p"}, {"top_k": 0, "temperature": 0.5})
    assert body_of(request, "m", DIALECTS["vllm"]) | {"model": "m"} == {
        "model": "m",
        "prompt": "p",
        "max_tokens": 256,
        "temperature": 0.5,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_chat_and_texts_go_where_they_belong() -> None:
    messages = [{"role": "user", "content": "hi"}]
    chat = Request("a", Task.GENERATE, {"messages": messages}, {"top_logprobs": 2, "max_tokens": 3, "n": 2})
    assert path_of(chat) == "chat/completions"
    body = body_of(chat, "m", DIALECTS["openai"])
    assert (body["messages"], body["logprobs"], body["top_logprobs"], body["n"]) == (messages, True, 2, 2)
    embed = Request("a", Task.EMBED, {"text": "t"}, {})
    assert (path_of(embed), body_of(embed, "m", DIALECTS["openai"])["input"]) == ("embeddings", ["t"])


def test_who_answers_usage_unasked_is_not_asked() -> None:
    request = Request("a", Task.GENERATE, {"prompt": "p"}, {})
    assert "stream_options" not in body_of(request, "m", DIALECTS["transformers"])
