"""``ktqueue submit`` against a scripted server: what it asks, prints, and exits with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.cli import MODELS, generated, job, run
from tests.support.client import Chunks, Server, job_json, listing, problem


def test_a_submit_prints_the_id() -> None:
    server = Server(listing(MODELS), job())
    result = run(server, "submit", "chat", "Hello")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "job_1\n", "")
    assert server.lines == ["GET /api/v1/models", "POST /api/v1/jobs"]
    assert server.sent(1) == {"model": "chat", "input": {"prompt": "Hello"}}


def test_a_submit_that_waits_prints_the_text_and_nothing_else() -> None:
    result = run(Server(listing(MODELS), job(), generated("Hello, you.")), "submit", "chat", "Hello", "--wait")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Hello, you.\n", "")


@pytest.mark.parametrize("model", ["vec", "echo"])
def test_other_results_are_compact_json(model: str) -> None:
    server = Server(listing(MODELS), job(), job("succeeded", result={"numbers": [1, 2], "word": "é"}))
    result = run(server, "submit", model, "Hello", "--wait")
    assert result.stdout == '{"numbers":[1,2],"word":"é"}\n'
    assert server.sent(1)["input"] == {"text": "Hello"}


def test_a_model_nobody_knows_is_refused_by_the_server() -> None:
    refusal = problem(404, "unknown_model", "no model named 'nope'; there are: chat", field="model")
    result = run(Server(listing(MODELS), refusal), "submit", "nope", "Hello")
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == "Error: no model named 'nope'; there are: chat\n"


def test_every_option_reaches_the_server() -> None:
    server = Server(job())
    result = run(
        server,
        *("submit", "chat", "Hello", "--chat", "--task", "generate", "--priority", "9", "--max-attempts", "1"),
        *("--param", "max_tokens=7", "--param", "stop=a=b", "--metadata", "team=a", "--metadata", "n=1"),
        *("--deadline", "60", "--idempotency-key", "mine", "--json"),
    )
    assert server.sent() == {
        "model": "chat",
        "input": {"messages": [{"role": "user", "content": "Hello"}]},
        "task": "generate",
        "priority": 9,
        "max_attempts": 1,
        "params": {"max_tokens": 7, "stop": "a=b"},
        "metadata": {"team": "a", "n": "1"},
        "deadline_seconds": 60.0,
    }
    assert server.asked[0].headers["idempotency-key"] == "mine"
    assert json.loads(result.stdout)["id"] == "job_1"


def test_the_text_may_come_from_stdin_and_the_input_as_json() -> None:
    server = Server(job(), job())
    run(server, "submit", "chat", "-", "--task", "generate", stdin="From a pipe\n")
    run(server, "submit", "vec", "--task", "rerank", "--input", '{"query": "q", "documents": ["d"]}')
    assert server.sent(0)["input"] == {"prompt": "From a pipe\n"}
    assert server.sent(1) == {"model": "vec", "task": "rerank", "input": {"query": "q", "documents": ["d"]}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a MODEL, or a --file"),
        (["chat", "--file", "x"], "with --file each line says all"),
        (["--file", "x", "--priority", "1"], "with --file each line says all"),
        (["--file", "x", "--idempotency-key", "k"], "with --file each line says all"),
        (["--file", "x", "--stream"], "with --file each line says all"),
        (["chat", "x", "--idempotency-key", "é"], "1-255 visible ASCII characters"),
        (["chat", "--input", '{"n": NaN}'], "there is no NaN"),
        (["chat", "--input", '{"n": 1e999}'], "1e999 is beyond all numbers"),
        (["chat", "x", "--deadline", "nan"], "'nan' is not a finite number"),
        (["chat"], "give the TEXT, or the --input"),
        (["chat", "Hello", "--input", "{}"], "give the TEXT, or the --input"),
        (["chat", "--input", "nonsense"], "is not JSON"),
        (["chat", "--input", "[1]"], "must be a JSON object"),
        (["chat", "x", "--param", "novalue"], "'novalue' is not of the form key=value"),
        (["chat", "x", "--metadata", "=v"], "not of the form key=value"),
        (["chat", "x", "--priority", "10"], "--priority"),
        (["chat", "x", "--url", "nonsense"], "'nonsense' is not the URL of a server"),
        (["vec", "x", "--task", "rerank"], "to rerank, give --input"),
        (["--file", "/nowhere/at/all"], "/nowhere/at/all: No such file"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_sent(arguments: list[str], said: str) -> None:
    server = Server()
    result = run(server, "submit", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""
    assert server.asked == []


def test_stdin_that_is_not_text_is_refused() -> None:
    result = run(Server(), "submit", "chat", "-", stdin=b"\xff")
    assert result.exit_code == 2
    assert "is not UTF-8" in result.stderr


def test_a_param_that_is_not_json_is_text() -> None:
    server = Server(job())
    run(server, "submit", "m", "x", "--task", "generate", "--param", "a=NaN", "--param", "b=1e999", "--param", "c=[1]")
    assert server.sent()["params"] == {"a": "NaN", "b": "1e999", "c": [1]}


@pytest.mark.parametrize("as_json", [False, True])
def test_a_job_that_fails_exits_1(as_json: bool) -> None:
    flags = ["--json"] if as_json else []
    result = run(Server(listing(MODELS), job(), job("failed")), "submit", "echo", "x", "--wait", *flags)
    assert result.exit_code == 1
    assert result.stderr == "Error: job_1 is failed: it broke (boom)\n"
    assert (json.loads(result.stdout)["state"] == "failed") if as_json else (result.stdout == "")


def test_a_wait_that_is_too_long_exits_5() -> None:
    result = run(Server(listing(MODELS), job(), job()), "submit", "echo", "x", "--wait", "--timeout", "0")
    assert (result.exit_code, result.stdout) == (5, "")
    assert "did not finish in time" in result.stderr


def event(event_id: str, kind: str, **data: Any) -> bytes:
    return f"id: {event_id}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def streamed(*events: bytes) -> httpx.Response:
    return httpx.Response(200, stream=Chunks(*events))


DONE = event("2-9", "state", state="succeeded")


def test_a_stream_prints_the_text_as_it_comes_and_says_when_it_starts_anew() -> None:
    tokens = [
        event("1-2", "token", text="He", offset=0),
        event("2-5", "token", text="Hello", offset=0),
        event("2-6", "token", text="!", offset=5),
    ]
    result = run(
        Server(listing(MODELS), job(), streamed(*tokens, DONE), generated("Hello!")), "submit", "chat", "x", "--stream"
    )
    assert (result.exit_code, result.stdout) == (0, "HeHello!\n")
    assert "starts anew" in result.stderr


def test_a_stream_of_an_engine_without_text_prints_the_result() -> None:
    result = run(Server(listing(MODELS), job(), streamed(DONE), job("succeeded")), "submit", "echo", "x", "--stream")
    assert result.stdout == '{"n":1}\n'


def test_a_stream_as_json_is_its_events_and_the_job() -> None:
    token = event("1-2", "token", text="He", offset=0)
    server = Server(listing(MODELS), job(), streamed(token, DONE), generated("He"))
    lines = run(server, "submit", "chat", "x", "--stream", "--json").stdout.splitlines()
    assert [json.loads(line).get("type") for line in lines] == ["token", "state", None]
    assert json.loads(lines[0]) == {"id": "1-2", "type": "token", "data": {"text": "He", "offset": 0}}
    assert json.loads(lines[2])["state"] == "succeeded"


BULK = '{"line": 1, "id": "job_a"}\n{"line": 2, "error": {"code": "unknown_model", "message": "no model"}}\n'


def jobs_file(folder: Path) -> str:
    path = folder / "jobs.ndjson"
    path.write_text('{"model": "echo", "input": {}}\n\n{"model": "nope", "input": {}}\n')
    return str(path)


def test_a_file_of_jobs_prints_ids_and_complains_of_bad_lines(tmp_path: Path) -> None:
    server = Server(httpx.Response(200, text=BULK))
    result = run(server, "submit", "--file", jobs_file(tmp_path))
    assert (result.exit_code, result.stdout) == (4, "job_a\n")
    assert result.stderr == "line 3: no model (unknown_model)\nError: 1 of 2 jobs were refused\n"
    assert server.asked[0].content == b'{"model": "echo", "input": {}}\n{"model": "nope", "input": {}}\n'


def test_a_file_of_jobs_as_json_prints_what_the_server_said_of_each(tmp_path: Path) -> None:
    result = run(Server(httpx.Response(200, text=BULK)), "submit", "--json", "--file", jobs_file(tmp_path))
    first, second = map(json.loads, result.stdout.splitlines())
    assert first == {"line": 1, "id": "job_a"}
    assert (second["line"], second["error"]["code"]) == (3, "unknown_model")


def test_a_file_of_jobs_can_be_waited_for() -> None:
    answers = httpx.Response(200, text='{"line": 1, "id": "job_a"}\n{"line": 2, "id": "job_b"}\n')
    ended = listing([job_json("job_a", "succeeded"), job_json("job_b", "succeeded")])
    result = run(Server(answers, ended), "submit", "--file", "-", "--wait", stdin="{}\n{}\n")
    assert (result.exit_code, result.stdout) == (0, "job_a  succeeded\njob_b  succeeded\n")
