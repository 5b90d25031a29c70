"""A lane in front of servers that nobody here wrote, several of each; its answers are those of our own engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import unavailable
from tests.support.real_servers import llama_cpp, save_f16, save_folder, transformers_serve, weights
from tests.support.stack import Stack, running

PROMPTS = ["The capital of France is", "Once upon a time", "Water boils at", "The sky is blue because", "Two and two"]
TOKENS = 12


def lane(alias: str, urls: Sequence[str], **entries: Any) -> str:
    """A table of models.toml."""
    given = "".join(f"{name} = {value!r}\n" for name, value in entries.items())
    instances = "".join(f'[[models.{alias}.instances]]\nurl = "{url}"\n{given}' for url in urls)
    return f'[models.{alias}]\nengine = "openai"\nrest_seconds = 1.0\n{instances}\n'


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """A service whose lane ``there`` is in front of two servers, beside the same weights in a lane of its own."""
    with ExitStack() as stack:

        def start(server: Callable[[Path], AbstractContextManager[str]], kind: str, **entries: Any) -> Stack:
            urls = [stack.enter_context(server(tmp_path / f"server{number}.log")) for number in range(2)]
            ours = f'[models.here]\nengine = "causal"\nsource = "path:{weights()}"\ndevice = "cpu"\nmax_batch = 8\n'
            models = lane("there", urls, kind=kind, **entries) + ours
            return stack.enter_context(running(tmp_path, models=models))

        yield start


def texts(stack: Stack, model: str, **given: Any) -> list[str]:
    params = {"max_tokens": TOKENS} | given
    ids = stack.bulk([{"model": model, "input": {"prompt": prompt}, "params": params} for prompt in PROMPTS])
    jobs = [stack.finished(job_id) for job_id in ids]
    assert [job["state"] for job in jobs] == ["succeeded"] * len(jobs), jobs
    assert [job["attempt"] for job in jobs] == [1] * len(jobs)
    assert {job["result"]["finish_reason"] for job in jobs} <= {"length", "stop"}
    assert all(job["usage"]["completion_tokens"] >= 1 for job in jobs)
    return [job["result"]["text"] for job in jobs]


def where_it_ran(stack: Stack) -> list[str]:
    """The states of the instances, as they are shown."""
    [lane] = [each for each in stack.http.get("/api/v1/lanes").json()["data"] if each["model"] == "there"]
    return [each["state"] for each in lane["instances"]]


@pytest.mark.models
@pytest.mark.timeout(900)  # three servers load a model each
def test_transformers_serve_answers_as_our_own_engine(tmp_path: Path, serving: Callable[..., Stack]) -> None:
    missing = [name for name in ("fastapi", "uvicorn", "accelerate") if find_spec(name) is None]
    if missing:
        unavailable(f"no transformers serve, for want of {', '.join(missing)}")
    folder = tmp_path / "model"
    save_folder(folder)
    stack = serving(lambda log: transformers_serve(folder, log), "transformers", model=str(folder), concurrency=4)
    assert texts(stack, "there") == texts(stack, "here", ignore_eos=True)
    assert where_it_ran(stack) == ["closed", "closed"]


@pytest.mark.models
@pytest.mark.timeout(900)  # three servers load a model each
def test_llama_cpp_which_drops_a_request_for_the_next_gets_one_at_a_time(
    tmp_path: Path, serving: Callable[..., Stack]
) -> None:
    if find_spec("llama_cpp") is None:
        # It comes as source only, and takes a compiler, so it is none of our dependencies.
        pytest.skip('no llama.cpp: pip install "llama-cpp-python[server]"')
    file = tmp_path / "f16.gguf"
    save_f16(file)
    stack = serving(lambda log: llama_cpp(file, log), "llama.cpp", model="smollm2")
    told = texts(stack, "there")
    assert len(set(told)) == len(PROMPTS)
    assert told[0].startswith(" Paris")
    assert texts(stack, "here")[0].startswith(" Paris")
    assert where_it_ran(stack) == ["closed", "closed"]
