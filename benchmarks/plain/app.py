"""Submit and poll."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, jsonify, request

from benchmarks.plain.jobs import Job, Session
from benchmarks.plain.tasks import run

MODELS = frozenset({"echo"})

app = Flask(__name__)


@app.post("/jobs")
def submit() -> tuple[Response, int] | tuple[Response, int, dict[str, str]]:
    """Accept a job: 202, and where to poll."""
    body: dict[str, Any] = request.get_json()
    if body.get("model") not in MODELS:
        return jsonify(error="unknown model"), 404
    if not isinstance(body.get("input"), dict):
        return jsonify(error="input must be an object"), 422
    webhook = body.get("webhook") or {}
    if not isinstance(webhook, dict) or not isinstance(webhook.get("url"), str | None):
        return jsonify(error="webhook must be an object with a url"), 422
    job = Job(model=body["model"], input=body["input"], webhook=webhook.get("url"))
    with Session.begin() as session:
        session.add(job)
    run.delay(job.id)
    return jsonify(_shown(job)), 202, {"Location": f"/jobs/{job.id}"}


@app.get("/jobs/<int:job_id>")
def poll(job_id: int) -> tuple[Response, int]:
    """The job as it is now."""
    with Session() as session:
        job = session.get(Job, job_id)
    return (jsonify(error="no such job"), 404) if job is None else (jsonify(_shown(job)), 200)


def _shown(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "model": job.model,
        "input": job.input,
        "state": job.state,
        "result": job.result,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
    }
