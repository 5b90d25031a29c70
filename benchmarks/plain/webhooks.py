"""What a webhook says, and its signature."""

from __future__ import annotations

import hmac
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from benchmarks.plain.jobs import Job

SECRET = b"a secret that both ends know"


def event_of(job: Job) -> dict[str, Any]:
    """The end of a job, as an event."""
    at = datetime.fromtimestamp(job.finished_at or 0.0, UTC).isoformat()
    data = {"id": job.id, "state": job.state, "input": job.input, "result": job.result, "finished_at": at}
    return {"id": f"evt_{uuid.uuid4().hex}", "type": f"job.{job.state}", "timestamp": at, "data": data}


def signed(content: bytes) -> dict[str, str]:
    """The headers of a request, with an HMAC of when it is made and of what it says."""
    timestamp = str(int(time.time()))
    signature = hmac.new(SECRET, timestamp.encode() + b"." + content, "sha256").hexdigest()
    return {
        "Content-Type": "application/json",
        "X-Webhook-Timestamp": timestamp,
        "X-Webhook-Signature": f"sha256={signature}",
    }
