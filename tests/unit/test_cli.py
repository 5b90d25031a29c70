"""The command line, against a scripted server: what it asks, prints, and exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ktqueue.cli.app import App
from ktqueue.cli.show import duration
from tests.support.cli import LANES, MODELS, job, run
from tests.support.client import Server, job_json, listing, problem

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


RECEIPT = {
    "id": "job_1",
    "object": "receipt",
    "model": "m",
    "state": "succeeded",
    "queued_ms": 31500,
    "run_ms": 1250,
    "device_seconds": 0.5,
    "usage": None,
    "attempts": [
        {"claim": 1, "outcome": "crashed", "worker": "box:7:8:m", "started_at": "2026-01-02T03:04:05Z",
         "queued_ms": 1500, "run_ms": 250, "device_seconds": None, "steps": None, "batch": None},
        {"claim": 2, "outcome": "succeeded", "worker": "box:9:9:m", "started_at": "2026-01-02T03:04:35Z",
         "queued_ms": 30000, "run_ms": 1000, "device_seconds": 0.5, "steps": 40,
         "batch": {"smallest": 2, "mean": 6.5, "largest": 9}},
    ],
}  # fmt: skip


def test_a_receipt_has_a_line_for_each_attempt() -> None:
    server = Server(httpx.Response(200, json=RECEIPT))
    result = run(server, "receipt", "job_1")
    assert result.exit_code == 0, result.stderr
    heading, first, second, total = (" ".join(line.split()) for line in result.stdout.splitlines())
    assert heading == "claim outcome waited ran device s steps jobs in a step worker"
    assert first == "1 crashed 1.5 s 250 ms – – – box:7:8:m"
    assert second == "2 succeeded 30.0 s 1.0 s 0.500 40 2 to 9, 6.5 on average box:9:9:m"
    assert total == "succeeded: waited 31.5 s, ran 1.2 s, 0.500 s of the device"
    assert server.lines == ["GET /api/v1/jobs/job_1/receipt"]


def test_a_receipt_as_json_is_what_the_server_said() -> None:
    result = run(Server(httpx.Response(200, json=RECEIPT)), "receipt", "--json", "job_1")
    assert json.loads(result.stdout) == RECEIPT


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
    assert [" ".join(line.split()) for line in result.stdout.splitlines()[1:]] == [
        "chat open 12 3 4.2 1.5 s 150 jobs of 1,000+200 tokens, 180,000 tokens in all gpu-1, gpu-2",
        "vec open 0 0 – – 9 jobs nobody",
        "echo open 0 0 – – – –",
    ]
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
    assert not as_json or len(result.stdout.splitlines()) == 9


@pytest.mark.parametrize("action", ["pause", "resume", "drain"])
def test_lanes_are_ordered_about(action: str) -> None:
    server = Server(httpx.Response(200, json=LANES[0] | {"mode": "paused", "concurrency": 5}))
    result = run(server, "lanes", action, "chat")
    assert (result.exit_code, result.stdout) == (0, "chat  paused, at most 5 at once  12 waiting, 3 running\n")
    assert server.lines == [f"POST /api/v1/lanes/chat/{action}"]
    said = run(Server(httpx.Response(200, json=LANES[0])), "lanes", action, "chat", "--json").stdout
    assert json.loads(said) == LANES[0]


@pytest.mark.parametrize(
    ("arguments", "bound"), [(["--concurrency", "7"], 7), (["--no-concurrency"], None)], ids=["bound", "unbound"]
)
def test_a_lanes_concurrency_is_set(arguments: list[str], bound: int | None) -> None:
    server = Server(httpx.Response(200, json=LANES[0]))
    assert run(server, "lanes", "set", "chat", *arguments).exit_code == 0
    assert server.lines == ["PATCH /api/v1/lanes/chat"]
    assert json.loads(server.asked[0].content) == {"concurrency": bound}


@pytest.mark.parametrize("arguments", [[], ["--concurrency", "1", "--no-concurrency"], ["--concurrency", "0"]])
def test_a_lanes_concurrency_is_set_to_something(arguments: list[str]) -> None:
    server = Server()
    assert run(server, "lanes", "set", "chat", *arguments).exit_code == 2
    assert server.lines == []


def purged(jobs: int, remaining: int, *, dry_run: bool = False) -> httpx.Response:
    body = {"object": "purge", "model": "chat", "dry_run": dry_run, "jobs": jobs, "remaining": remaining}
    return httpx.Response(200, json=body)


def test_a_purge_goes_on_until_nothing_is_left() -> None:
    server = Server(purged(9, 9, dry_run=True), purged(5, 4), purged(4, 0))
    result = run(server, "lanes", "purge", "chat", "--yes", "--older-than", "60", "--tenant", "us")
    assert (result.exit_code, result.stdout) == (0, "chat  5 cancelled, 4 left\nchat  4 cancelled, 0 left\n")
    asked = [json.loads(request.content) for request in server.asked]
    assert asked == [
        {"dry_run": dry_run, "tenant": "us", "older_than_seconds": 60.0} for dry_run in (True, False, False)
    ]


def test_a_purge_asks_first() -> None:
    server = Server(purged(9, 9, dry_run=True))
    result = run(server, "lanes", "purge", "chat", stdin="n\n")
    assert (result.exit_code, len(server.asked)) == (1, 1)
    assert "Cancel 9 queued jobs of chat?" in result.stderr


def test_a_dry_purge_only_counts() -> None:
    server = Server(purged(9, 9, dry_run=True))
    assert run(server, "lanes", "purge", "chat", "--dry-run").stdout == "chat  9 would be cancelled\n"


def test_slots_are_listed() -> None:
    worker = {
        "name": "gpu-1:77:88:boot",
        "object": "worker",
        "worker": "gpu",
        "host": "gpu-1",
        "pid": 77,
        "model": "chat",
        "state": "ready",
        "device": "cuda:0 (H200)",
        "capacity": {"jobs": 256, "cache_tokens": 4096, "block_tokens": 16},
        "running": 12,
        "ready_at": "2026-01-02T03:04:05Z",
        "heartbeat_at": "2026-01-02T03:04:06Z",
    }
    lines = run(Server(listing([worker])), "workers").stdout.splitlines()
    told = "gpu-1:77:88:boot gpu chat ready cuda:0 (H200) 12 of 256 2026-01-02 03:04:06 UTC"
    assert " ".join(lines[1].split()) == told
    assert json.loads(run(Server(listing([worker])), "workers", "--json").stdout) == worker


def test_servers_that_jobs_are_passed_on_to_are_listed_below() -> None:
    instance = {
        "url": "http://a/v1",
        "kind": "vllm",
        "state": "open",
        "rests_seconds": 2.25,
        "running": 0,
        "outstanding_tokens": 0,
        "jobs": 8,
        "cache_tokens": None,
        "jobs_at_once": 8,
    }
    result = run(Server(listing([LANES[0] | {"instances": [instance]}])), "lanes")
    assert " ".join(result.stdout.splitlines()[-1].split()) == "chat http://a/v1 vllm open for 2.2 s 0 of 8 8 0 –"


def test_rosters_are_listed() -> None:
    roster = {
        "worker": "gpu",
        "object": "roster",
        "host": "gpu-1",
        "models": ["chat"],
        "offers": ["chat", "echo"],
        "heartbeat_at": "2026-01-02T03:04:06Z",
    }
    lines = run(Server(listing([roster])), "rosters").stdout.splitlines()
    assert " ".join(lines[1].split()) == "gpu chat echo 2026-01-02 03:04:06 UTC"
    assert json.loads(run(Server(listing([roster])), "rosters", "--json").stdout) == roster


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["--from", "a", "--to", "b"], {"from_worker": "a", "to_worker": "b"}),
        (["--from", "a"], {"from_worker": "a"}),
        (["--to", "b"], {"to_worker": "b"}),
    ],
)
def test_a_model_is_moved(arguments: list[str], asked: dict[str, str]) -> None:
    lane = {"model": "chat", "object": "lane", "mode": "open", "workers": [], "depth": 3, "running": 0}
    server = Server(httpx.Response(200, json=lane))
    assert run(server, "lanes", "move", "chat", *arguments).stdout == "chat  open  3 waiting, 0 running\n"
    assert json.loads(server.asked[0].content) == asked


def test_a_move_needs_a_worker() -> None:
    assert run(Server(), "lanes", "move", "chat").exit_code == 2


USED = {
    "day": "2026-01-02",
    "tenant": "us",
    "model": "chat",
    "succeeded": 4,
    "failed": 3,
    "cancelled": 2,
    "expired": 1,
    "prompt_tokens": 50,
    "completion_tokens": 70,
    "device_seconds": 1.23456,
}


def test_usage_is_shown() -> None:
    server = Server(listing([USED]))
    result = run(server, "usage", "--from", "2026-01-01", "--to", "2026-01-31", "--tenant", "us", "--model", "chat")
    assert " ".join(result.stdout.splitlines()[1].split()) == "2026-01-02 us chat 4 3 2 1 50 + 70 1.235"
    assert server.lines == ["GET /api/v1/usage?from=2026-01-01&to=2026-01-31&tenant=us&model=chat"]
    assert json.loads(run(Server(listing([USED])), "usage", "--json").stdout) == USED


def test_usage_is_printed_as_csv() -> None:
    server = Server(httpx.Response(200, text="day,tenant\r\n2026-01-02,us\r\n"))
    assert run(server, "usage", "--csv").stdout.splitlines() == ["day,tenant", "2026-01-02,us"]
    assert server.asked[0].headers["Accept"] == "text/csv"


def test_lanes_are_asked_for_a_size_of_job() -> None:
    server = Server(listing(LANES))
    assert run(server, "lanes", "--prompt-tokens", "5000", "--answer-tokens", "1").exit_code == 0
    assert server.lines == ["GET /api/v1/lanes?prompt_tokens=5000&answer_tokens=1"]


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
    ("command", "module"),
    [
        ("api", ["api"]),
        ("light", ["worker", "light"]),
        ("deliver", ["worker", "deliver"]),
        ("beat", ["worker", "beat"]),
    ],
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
