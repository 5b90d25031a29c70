"""The API as it is served."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest

from tests.api.serving import GOOD, JOBS, MAX_BODY, Served, gone
from tests.support.stack import until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("api"), redis_server)
    yield served
    served.stop()


@pytest.fixture
def own(tmp_path: Path, redis_url: str) -> Iterator[Served]:
    served = Served(tmp_path, redis_url)
    yield served
    served.stop()


def test_a_job_goes_its_way(own: Served) -> None:
    answer = own.http.post(JOBS, json=GOOD, headers={"Idempotency-Key": "way"})
    assert answer.status_code == 202
    path = answer.headers["Location"]
    queued = own.http.get(path)
    assert (queued.json()["state"], queued.json()["position"]) == ("queued", 0)
    assert own.http.get(path, headers={"If-None-Match": queued.headers["ETag"]}).status_code == 304

    worker = Thread(target=own.work)
    worker.start()
    waited = own.http.get(path, params={"wait": 60})
    worker.join()

    assert (waited.json()["state"], waited.json()["result"]) == ("succeeded", {"say": "hi"})
    replay = own.http.post(JOBS, json=GOOD, headers={"Idempotency-Key": "way", "Prefer": "wait=60"})
    assert (replay.status_code, replay.json()["id"]) == (200, waited.json()["id"])
    assert replay.headers["Idempotency-Replayed"] == "true"
    assert own.http.delete(path).status_code == 204
    assert own.http.get(path).status_code == 404


def test_one_key_makes_one_job_under_concurrency(shared: Served) -> None:
    def submit(_: int) -> str:
        answer = httpx.post(f"{shared.url}{JOBS}", json=GOOD, headers={"Idempotency-Key": "race"}, timeout=60)
        assert answer.status_code == 202
        return str(answer.json()["id"])

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(submit, range(24)))) == 1


def test_bulk_is_streamed_in(shared: Served) -> None:
    lines = 1200

    def body() -> Iterator[bytes]:
        for number in range(lines):
            yield json.dumps({"model": "echo" if number % 100 else "nobody", "input": {"n": number}}).encode() + b"\n"

    answer = shared.http.post(f"{JOBS}:bulk", content=body(), headers={"Content-Type": "application/x-ndjson"})

    assert answer.status_code == 200
    told = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["line"] for line in told] == list(range(1, lines + 1))
    assert sum("id" in line for line in told) == lines - 12
    assert shared.http.get(f"{JOBS}/{told[7]['id']}").json()["input"] == {"n": 7}


def test_a_client_that_goes_away_in_the_middle_of_a_bulk_submit_loses_nothing_whole(own: Served) -> None:
    line = json.dumps(GOOD).encode() + b"\n"

    def body() -> Iterator[bytes]:
        yield line * 5 + line[:10]
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        own.http.post(f"{JOBS}:bulk", content=body(), headers={"Content-Type": "application/x-ndjson"})

    until(lambda: len(own.http.get(JOBS).json()["data"]) == 5, "the five jobs that came whole")


def test_a_body_of_unknown_length_is_bounded(shared: Served) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"model":"echo","input":{}}'
        yield b" " * MAX_BODY

    answer = shared.http.post(JOBS, content=body(), headers={"Content-Type": "application/json"})

    assert answer.status_code == 413
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path",
    ["/%ff%00", "/api/v1/jobs/%ff%00%F0%9F%98%80", "//api//v1", "/docs/..%2f..%2fx", "/api/v1/jobs?model=%ff"],
)
def test_strange_paths_are_no_fault(shared: Served, path: str) -> None:
    assert shared.http.get(path).status_code in {200, 404}


def test_the_pages_are_served(shared: Served) -> None:
    assert "swagger-ui" in shared.http.get("/docs").text
    assert len(shared.http.get("/docs/js/swagger-ui-bundle.js").content) > 100_000
    head = shared.http.head("/openapi.json")
    assert int(head.headers["Content-Length"]) == len(shared.http.get("/openapi.json").content)


# --- waiting ---------------------------------------------------------------------------------------------------


def test_events_are_streamed_as_they_happen(own: Served) -> None:
    job_id = own.submit()
    told: list[str] = []
    with own.http.stream("GET", f"{JOBS}/{job_id}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                told.append(json.loads(line[6:])["state"])
                if told == ["queued"]:
                    assert own.work() == 1

    assert told == ["queued", "running", "succeeded"]
    resumed = own.http.get(f"{JOBS}/{job_id}/events", headers={"Last-Event-ID": "1-0"})
    assert "running" not in resumed.text
    assert "succeeded" in resumed.text


def test_waits_beyond_the_bound_are_answered_at_once_and_starve_nobody(own: Served) -> None:
    job_id = own.submit()
    begun = [Event(), Event()]

    def follow(event: Event) -> str:
        text = ""
        with httpx.stream("GET", f"{own.url}{JOBS}/{job_id}/events", timeout=60) as stream:
            for chunk in stream.iter_text():
                event.set()
                text += chunk
        return text

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(follow, event) for event in begun]
        assert all(event.wait(60) for event in begun)

        refused = own.http.get(f"{JOBS}/{job_id}/events")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
        assert own.http.get(f"{JOBS}/{job_id}", params={"wait": 60}).json()["state"] == "queued"
        submitted = own.http.post(JOBS, json=GOOD, headers={"Prefer": "wait=60"})
        assert submitted.status_code == 202
        assert "Preference-Applied" not in submitted.headers
        assert own.http.get("/healthz").status_code == 200

        own.work()
        assert all("succeeded" in reader.result() for reader in readers)
    assert own.http.get(f"{JOBS}/{job_id}/events").status_code == 200


def test_a_reader_that_goes_away_gives_its_place_back(own: Served) -> None:
    job_id = own.submit()
    path = f"{own.url}{JOBS}/{job_id}/events"
    for _ in range(own.settings.max_waits):
        reader = httpx.Client(timeout=60)
        stream = reader.send(reader.build_request("GET", path), stream=True)
        # It has said what there is to say and waits for news.
        assert ":" in stream.iter_lines()
        stream.close()
        reader.close()

    def again() -> bool:
        with own.http.stream("GET", path) as stream:
            return stream.status_code == 200

    until(again, "a place to be free again")


# --- endings ---------------------------------------------------------------------------------------------------


def test_a_stop_ends_every_process_even_with_readers(own: Served) -> None:
    family = own.family()
    assert len(family) > 1
    with own.http.stream("GET", f"{JOBS}/{own.submit()}/events") as stream:
        assert stream.status_code == 200
        own.process.send_signal(signal.SIGTERM)
        own.process.wait(30)

    until(lambda: gone(family), "the end of every process")
    assert "Traceback" not in own.log.read_text()


def test_no_process_outlives_one_that_was_killed(own: Served) -> None:
    family = own.family()
    own.process.kill()
    own.process.wait()

    until(lambda: gone(family), "the end of the workers")
