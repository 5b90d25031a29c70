"""A rolling restart under load, and a stop of the API alone: no job is lost or doubled, no client sees an error."""

from __future__ import annotations

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import psutil

from tests.support.load import every_job_succeeds
from tests.support.stack import Stack, alive, running, until

JOBS = "/api/v1/jobs"
CLIENTS = 6
PAUSE_S = 0.02
AGAIN = frozenset({429, 503})
"""What a client tries again, after the time it was told. Anything else but a success fails the test."""
MARK = {"test": "rolling"}
API = "-m api"
ROLES = (API, "-m worker lane", "-m worker light", "-m worker beat")


class Client:
    """One that submits a job, looks at it and waits for another, over one connection that is kept alive."""

    def __init__(self, stack: Stack, number: int) -> None:
        self._http = httpx.Client(base_url=stack.url, timeout=60)
        self._number = number
        self.jobs: dict[str, dict[str, Any]] = {}
        self.answers: Counter[int] = Counter()

    def work(self, enough: Event) -> None:
        with self._http:
            while not enough.wait(PAUSE_S):
                self._submit_and_look({"client": self._number, "job": len(self.jobs)})

    def _submit_and_look(self, job_input: dict[str, Any]) -> None:
        document = {"model": "echo", "input": job_input, "params": {"delay_ms": 50}, "metadata": MARK}
        headers = {"Idempotency-Key": f"{self._number}-{len(self.jobs)}"}
        if len(self.jobs) % 5 == 0:
            headers["Prefer"] = "wait=2"
        job = self._ask("POST", JOBS, json=document, headers=headers)
        self.jobs[job["id"]] = job_input
        self._ask("GET", f"{JOBS}/{job['id']}")

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        while True:
            answer = self._http.request(method, path, **more)
            self.answers[answer.status_code] += 1
            if answer.status_code not in AGAIN:
                assert answer.is_success, answer.text
                document: dict[str, Any] = answer.json()
                return document
            time.sleep(float(answer.headers["Retry-After"]))


def programs(stack: Stack) -> dict[str, psutil.Process]:
    """The first process of each role."""
    return {role: next(each for each in stack.find(role) if alive(each)) for role in ROLES}


def all_run(stack: Stack) -> bool:
    return all(any(alive(each) for each in stack.find(role)) for role in ROLES)


def test_a_rolling_restart_costs_no_job_and_no_error(tmp_path: Path) -> None:
    enough = Event()
    with running(tmp_path, KTQ_GRACE_SECONDS="10") as stack, ThreadPoolExecutor(CLIENTS) as pool:
        until(lambda: all_run(stack), "every role")
        before = programs(stack)
        clients = [Client(stack, number) for number in range(CLIENTS)]
        loads = [pool.submit(client.work, enough) for client in clients]
        try:
            until(lambda: all(len(client.jobs) > 5 for client in clients), "a load")
            stack.signal(signal.SIGHUP)
            until(lambda: "everything has been restarted" in stack.said(), f"a rolling restart:\n{stack.said()}")
            jobs = {client: len(client.jobs) for client in clients}
            until(lambda: all(len(client.jobs) > jobs[client] + 5 for client in clients), "a load after it")
            after = programs(stack)
            after[API].terminate()
            until(lambda: all_run(stack) and not alive(after[API]), "another API in its place")
            jobs = {client: len(client.jobs) for client in clients}
            until(lambda: all(len(client.jobs) > jobs[client] + 5 for client in clients), "a load after that")
        finally:
            enough.set()
        for load in loads:
            load.result()

        assert all(not alive(before[role]) for role in ROLES)
        assert all(alive(after[role]) for role in ROLES if role != API)
        accepted = {job_id: job_input for client in clients for job_id, job_input in client.jobs.items()}
        assert len(accepted) == sum(len(client.jobs) for client in clients)
        every_job_succeeds(stack, accepted)
        assert stored(stack) == dict.fromkeys(accepted, 1)
        assert "Traceback" not in stack.said()


def stored(stack: Stack) -> dict[str, int]:
    """Every job that the service has, whoever was told of it, and its attempts."""
    attempts: dict[str, int] = {}
    cursor: dict[str, str] = {}
    while True:
        page = stack.http.get(JOBS, params={"metadata.test": "rolling", "limit": 200, **cursor}).json()
        attempts |= {job["id"]: job["attempt"] for job in page["data"]}
        if page["next_cursor"] is None:
            return attempts
        cursor = {"cursor": page["next_cursor"]}
