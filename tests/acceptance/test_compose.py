"""`docker compose up`, as far as it goes without Docker: the file, and every service's own command."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from ktqueue.settings import Settings
from tests.conftest import process, redis_answers, valkey_binary, wait_until_ready
from tests.support.compose import ROOT, Role, image_environment, read
from tests.support.stack import free_port, until

TEXT = (ROOT / "docker-compose.yml").read_text()
SECRET = {"POSTGRES_PASSWORD": "0123456789abcdef", "KTQ_SECRET_KEY": base64.b64encode(bytes(32)).decode()}
OURS = ("migrate", "api", "worker", "worker-gpu", "light", "deliver", "beat")


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = read(TEXT, SECRET).to_dict()["services"]
    return services


def test_the_file_follows_the_specification_and_has_every_role(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {*OURS, "redis", "postgres"}
    assert {services[role]["image"] for role in OURS} == {"ktqueue:0.1.0"}
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    assert "profiles" not in services["worker"]
    assert all("healthcheck" in services[name] for name in ("api", "redis", "postgres"))


def test_a_mistake_in_the_file_is_seen() -> None:
    with pytest.raises(Exception, match="restrat"):
        read(TEXT.replace("restart: unless-stopped", "restrat: unless-stopped"), SECRET)


@pytest.mark.parametrize("secret", SECRET)
def test_secrets_come_from_the_environment_and_from_nowhere_else(secret: str) -> None:
    with pytest.raises(KeyError, match=secret):
        read(TEXT, {name: value for name, value in SECRET.items() if name != secret})


def test_every_variable_that_is_set_is_one_that_settings_read(services: dict[str, dict[str, Any]]) -> None:
    environments = [services[role]["environment"] for role in OURS] + [image_environment()]
    for environment in environments:
        ours = {name: str(value) for name, value in environment.items() if name.startswith("KTQ_")}
        assert ours
        Settings.from_env(ours)


def test_only_the_api_is_published_and_only_on_loopback(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert published.keys() == {"api"}
    assert all("127.0.0.1" in str(port) for port in published["api"])


def test_the_dockerfile_has_no_lint() -> None:
    lint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([lint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def composed(services: dict[str, dict[str, Any]], postgres_url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of the service, every role of the file running as it says."""
    redis_port, port = free_port(), free_port()
    moved = {
        "redis:6379": f"127.0.0.1:{redis_port}",
        "/app/models.toml": str(ROOT / "models.toml"),
        "/home/ktqueue": str(tmp_path),
        # The password and the server's address belong to the container's PostgreSQL; this one is the tests'.
        "KTQ_DATABASE_URL": postgres_url,
        "KTQ_PORT": str(port),
    }
    with ExitStack() as stack:
        command = [valkey_binary(), *services["redis"]["command"][1:], "--port", str(redis_port), "--bind", "127.0.0.1"]
        server = stack.enter_context(process(command, tmp_path / "redis"))
        wait_until_ready(server, tmp_path / "redis", lambda: redis_answers(f"redis://127.0.0.1:{redis_port}/0"))
        log = tmp_path / "log"
        assert Role(services["migrate"], moved, log).run() == 0, log.read_text()
        children = [Role(services[role], moved, log).start() for role in ("api", "worker", "light", "deliver", "beat")]
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: healthy(services["api"]["healthcheck"]["test"], port), "the API's health check")
            yield url
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.wait(30)
        assert "Traceback" not in log.read_text()


def healthy(test: list[str], port: int) -> bool:
    """Run the API's own health check, in its own words."""
    kind, *command = [word.replace(":8000", f":{port}") for word in test]
    assert kind == "CMD"
    assert command[0] == "python"
    return subprocess.run([sys.executable, *command[1:]], capture_output=True, check=False).returncode == 0


@pytest.mark.models
@pytest.mark.timeout(300)
def test_the_roles_of_the_file_answer_jobs_together(composed: str) -> None:
    asked = {
        "echo": {"say": "hi"},
        "minilm-l6": {"text": "a cat"},
        "smollm2-135m": {"messages": [{"role": "user", "content": "Say hi."}]},
    }
    with httpx.Client(base_url=composed, timeout=60) as http:
        jobs = {
            model: http.post("/api/v1/jobs", json={"model": model, "input": given}).raise_for_status().json()["id"]
            for model, given in asked.items()
        }
        results = {model: until(lambda: result_of(http, job), f"{model}'s answer") for model, job in jobs.items()}  # noqa: B023
    assert results["echo"] == {"say": "hi"}
    assert len(results["minilm-l6"]["embeddings"][0]) == 384
    assert results["smollm2-135m"]["text"]


def result_of(http: httpx.Client, job_id: str) -> dict[str, Any] | None:
    job = http.get(f"/api/v1/jobs/{job_id}", params={"wait": "10"}).raise_for_status().json()
    assert job["state"] in {"queued", "running", "succeeded"}, job
    result: dict[str, Any] | None = job["result"]
    return result
