"""``python -m benchmarks.plain.tell TASK EVENTS URL …``: leave webhooks waiting, each like the event on stdin."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Sequence
from itertools import cycle, islice

from benchmarks.plain.tasks import celery, send_webhook, send_webhook_kept

TASKS = {task.__name__: task for task in (send_webhook, send_webhook_kept)}


def main(task: str, events: int, urls: Sequence[str]) -> None:
    event = json.load(sys.stdin)
    with celery.producer_pool.acquire(block=True) as producer:
        for url in islice(cycle(urls), events):
            body = json.dumps(event | {"id": f"evt_{uuid.uuid4().hex}"})
            TASKS[task].apply_async((url, body), producer=producer)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
