"""The command line on a scripted server, run in this process."""

from __future__ import annotations

from typing import Any

import httpx
from click.testing import CliRunner, Result

from ktqueue.cli import main
from ktqueue.cli.app import App
from tests.support.client import Server, World, job_json

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
LANES: list[dict[str, Any]] = [
    {
        "model": "chat",
        "object": "lane",
        "mode": "open",
        "concurrency": None,
        "workers": ["gpu-1", "gpu-2"],
        "depth": 12,
        "running": 3,
        "throughput": 4.25,
        "oldest_wait_seconds": 1.5,
        "capacity": {
            "jobs": 256,
            "cache_tokens": 180_000,
            "block_tokens": 16,
            "prompt_tokens": 1000,
            "answer_tokens": 200,
            "jobs_at_once": 150,
        },
    },
    {
        "model": "vec",
        "object": "lane",
        "mode": "open",
        "concurrency": None,
        "workers": [],
        "depth": 0,
        "running": 0,
        "throughput": None,
        "oldest_wait_seconds": None,
        "capacity": {
            "jobs": 9,
            "cache_tokens": None,
            "block_tokens": None,
            "prompt_tokens": 1000,
            "answer_tokens": 200,
            "jobs_at_once": 9,
        },
    },
    {
        "model": "echo",
        "object": "lane",
        "mode": "open",
        "concurrency": None,
        "depth": 0,
        "running": 0,
        "throughput": None,
        "oldest_wait_seconds": None,
        "capacity": None,
    },
]


def run(
    server: Server, *arguments: str, stdin: str | bytes | None = None, app: App | None = None, **env: str
) -> Result:
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
