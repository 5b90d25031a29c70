"""The command line, against a scripted server: what it asks, prints, and exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from ktqueue.cli import main
from ktqueue.cli.app import App
from ktqueue.cli.show import duration
from tests.support.client import Chunks, Server, World, job_json, listing, problem

MODELS = [
    {
        "id": "chat",
        "object": "model",
        "tasks": ["generate"],
        "engine": "causal",
        "limits": {"context": 8, "max_batch": 2},
    },
    {
        "id": "vec",
        "object": "model",
        "tasks": ["embed", "rerank"],
        "engine": "encoder",
        "limits": {"context": None, "max_batch": 9},
    },
    {"id": "echo", "object": "model", "tasks": ["echo"], "engine": "echo", "limits": {"context": None, "max_batch": 9}},
]
LANES = [
    {"model": "chat", "object": "lane", "depth": 12, "running": 3, "throughput": 4.25, "oldest_wait_seconds": 1.5},
    {"model": "echo", "object": "lane", "depth": 0, "running": 0, "throughput": None, "oldest_wait_seconds": None},
]


def run(server: Server, *arguments: str, stdin: str | None = None, app: App | None = None, **env: str) -> Result:
    """Run ``ktqueue`` with these arguments; only the exits that it means to make are let through."""
    world = World()
    app = app or App(environ=env, transport=httpx.MockTransport(server), sleep=world.sleep)
    result = CliRunner().invoke(main, arguments, input=stdin, obj=app, env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def job(state: str = "queued", job_id: str = "job_1", **fields: Any) -> httpx.Response:
    return httpx.Response(200, json=job_json(job_id, state, **fields))


def generated(text: str) -> httpx.Response:
    return job("succeeded", model="chat", task="generate", result={"text": text, "finish_reason": "stop"})


# --- submit ---


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
        (["chat", "--file", "x"], "name a MODEL, or a --file"),
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


# --- looking, waiting, cancelling ---


def test_get_tells_what_is_known() -> None:
    server = Server(
        job(position=3),
        job(
            "succeeded",
            usage={"prompt_tokens": 5, "completion_tokens": 7},
            timing={"queued_ms": 12, "run_ms": 3456, "largest_batch": 17},
        ),
    )
    result = run(server, "get", "job_1", "job_2")
    assert result.exit_code == 0
    first, second = result.stdout.split("\n\n")
    assert "ahead of it    3" in first
    assert "created        2026-01-02 03:04:05 UTC" in first
    assert "queued         12 ms" in second
    assert "ran            3.5 s" in second
    assert "tokens         5 + 7" in second
    assert 'result         {"n":1}' in second


def test_get_as_json_is_what_the_server_said() -> None:
    result = run(Server(job(), job("failed")), "get", "--json", "job_1", "job_2")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first.keys() == job_json().keys()
    assert (first["state"], second["state"]) == ("queued", "failed")


def test_get_of_no_job_exits_4() -> None:
    result = run(Server(problem(404, "not_found", "there is no job job_1")), "get", "job_1")
    assert (result.exit_code, result.stderr) == (4, "Error: there is no job job_1\n")


def test_a_server_that_is_not_there_exits_3() -> None:
    result = run(Server(*[httpx.ConnectError("refused")] * 4), "get", "job_1", KTQUEUE_URL="http://box:1234")
    assert (result.exit_code, result.stderr) == (3, "Error: can't reach http://box:1234: refused\n")


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 1), ("expired", 1)])
def test_wait_says_how_a_job_ended_and_exits_by_it(state: str, code: int) -> None:
    result = run(Server(job(state)), "wait", "job_1")
    assert result.exit_code == code
    assert result.stdout.startswith(f"job_1  {state}")


def test_wait_for_several_tells_each_and_counts_the_unhappy() -> None:
    ended = listing([job_json("job_a", "succeeded"), job_json("job_b", "failed")])
    result = run(Server(ended), "wait", "job_a", "job_b")
    assert (result.exit_code, result.stdout) == (1, "job_a  succeeded\njob_b  failed: it broke (boom)\n")
    assert result.stderr == "Error: 1 of 2 jobs did not succeed\n"


def test_wait_for_several_gives_up_in_time() -> None:
    unfinished = [job_json("job_a", "running"), job_json("job_b", "succeeded")]
    result = run(Server(listing(unfinished)), "wait", "--json", "--timeout", "0", "job_a", "job_b")
    assert result.exit_code == 5
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["job_b"]


def test_list_shows_whole_ids_and_no_more_than_asked_for() -> None:
    ids = [f"job_{n:032x}" for n in range(3)]
    server = Server(listing([job_json(job_id) for job_id in ids], "more"))
    result = run(
        server,
        "list",
        "--limit",
        "2",
        "--state",
        "queued",
        "--state",
        "running",
        "--model",
        "echo",
        "--metadata",
        "a=b",
    )
    assert result.exit_code == 0
    assert [job_id in result.stdout for job_id in ids] == [True, True, False]
    assert server.lines == ["GET /api/v1/jobs?state=queued&state=running&metadata.a=b&model=echo&limit=100"]


def test_list_as_json_is_a_line_for_each_job() -> None:
    result = run(Server(listing([job_json("job_a"), job_json("job_b")])), "list", "--json")
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["job_a", "job_b"]


def test_cancel_says_what_became_of_each() -> None:
    result = run(Server(job("cancelled"), job("succeeded", "job_2")), "cancel", "job_1", "job_2")
    assert (result.exit_code, result.stdout) == (0, "job_1  cancelled\njob_2  succeeded\n")
    assert json.loads(run(Server(job("cancelled")), "cancel", "job_1", "--json").stdout)["state"] == "cancelled"


# --- models and lanes ---


def test_models_are_listed() -> None:
    result = run(Server(listing(MODELS)), "models")
    assert result.exit_code == 0
    assert "vec    embed, rerank  encoder" in result.stdout
    lines = run(Server(listing(MODELS)), "models", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == MODELS


def test_models_of_this_machine_are_read_from_its_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text('[models.mine]\nengine = "encoder"\nsource = "path:/a[b]"\n')
    server = Server()
    result = run(server, "models", "--local", KTQ_MODELS=str(path))
    assert "mine   embed  encoder  path:/a[b]" in result.stdout
    described = json.loads(run(server, "models", "--local", "--json", KTQ_MODELS=str(path)).stdout)
    assert (described["id"], described["tasks"]) == ("mine", ["embed"])
    assert server.asked == []


def test_lanes_are_shown_once() -> None:
    result = run(Server(listing(LANES)), "lanes")
    assert "chat   12       3        4.2     1.5 s" in result.stdout
    assert "echo   0        0        –       –" in result.stdout
    lines = run(Server(listing(LANES)), "lanes", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == LANES


@pytest.mark.parametrize("as_json", [False, True])
def test_lanes_are_watched_until_ctrl_c(as_json: bool) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    server = Server(*[listing(LANES) for _ in range(3)])
    app = App(environ={}, transport=httpx.MockTransport(server), sleep=nap)
    result = run(server, "lanes", "--watch", "--interval", "2", *(["--json"] if as_json else []), app=app)
    assert result.exit_code == 0
    assert len(server.asked) == 3
    assert naps == [2.0] * 3
    assert not as_json or len(result.stdout.splitlines()) == 6


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (None, None),
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1.0 s"),
        (59_900, "59.9 s"),
        (60_000, "1 min"),
        (3_600_000, "1 h"),
        (90_000_000, "1 d"),
    ],
)
def test_durations_are_for_people(milliseconds: float | None, said: str | None) -> None:
    assert duration(milliseconds) == said


# --- the service ---


@pytest.mark.parametrize(
    ("command", "module"), [("api", ["api"]), ("light", ["worker", "light"]), ("beat", ["worker", "beat"])]
)
def test_a_role_takes_the_place_of_the_command(command: str, module: list[str]) -> None:
    became: list[tuple[str, list[str]]] = []
    app = App(environ={}, become=lambda program, arguments: became.append((program, arguments)))
    assert run(Server(), command, app=app).exit_code == 0
    assert became == [(sys.executable, [sys.executable, "-m", *module])]


@pytest.mark.parametrize("command", ["up", "worker", "demo", "migrate"])
def test_a_wrong_setting_is_one_line(command: str) -> None:
    result = run(Server(), command, KTQ_PROT="8000")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: KTQ_PROT: no such setting")
    assert len(result.stderr.splitlines()) == 1


def test_a_worker_of_no_model_is_one_line() -> None:
    result = run(Server(), "worker", "nope")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: no model named 'nope'")


def test_migrate_makes_the_home_and_the_tables_and_may_be_repeated(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    assert run(Server(), "migrate", KTQ_HOME=str(home)).stdout == "sqlite is up to date\n"
    assert (home / "ktqueue.db").is_file()
    result = run(Server(), "migrate", "--json", KTQ_HOME=str(home))
    assert json.loads(result.stdout)["database"] == "sqlite"


def test_a_home_that_can_not_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run(Server(), "migrate", KTQ_HOME=str(tmp_path / "file" / "home"))
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: KTQ_HOME: ")


# --- all of it ---


def test_ctrl_c_exits_as_shells_expect() -> None:
    def interrupted(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    assert run(Server(handler=interrupted), "get", "job_1").exit_code == 130


def test_help_names_the_exit_codes() -> None:
    assert "5  timed out waiting" in run(Server(), "--help").stdout


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from ktqueue.cli import main
try:
    main(["--help"])
finally:
    print(sorted({"httpx", "rich", "pydantic", "sqlalchemy", "celery", "torch", "api", "worker"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ktqueue.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ktqueue, version ")
