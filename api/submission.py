"""From a JSON document to a submission that is known to be valid: by its fields, its model, and its task."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from api.errors import BrokenRules, as_broken_rules
from api.inputs import TASKS, JobRequest, WebhookRequest
from api.shapes import OVERSIZED, Shape
from ktqueue.intake import Submission
from ktqueue.job import Task
from ktqueue.models import Catalogue
from ktqueue.rank import DEFAULT_PRIORITY
from ktqueue.tenant import Caller
from ktqueue.webhook import Webhook
from ktqueue.webhooks import Webhooks

LONGEST_AHEAD_S = 366 * 86_400
REQUEST = Shape(JobRequest)
TASK_OF = {task.value: task for task in Task}


class Submissions:
    """The rules that hold for this catalogue, and for where ``webhooks`` may go."""

    def __init__(
        self,
        catalogue: Catalogue,
        webhooks: Webhooks,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - a bound of years
    ) -> None:
        self._catalogue = catalogue
        self._webhooks = webhooks
        self._clock = clock

    def parse(self, document: Any, caller: Caller) -> Submission:
        """A submission by ``caller``. Raises BrokenRules, UnknownModel, UnsupportedTask."""
        asked = REQUEST.parse(document)
        task = self._catalogue[asked["model"]].task(asked.get("task"))
        shapes = TASKS[task]
        inputs, wrong_inputs = shapes.input.errors(asked["input"])
        params, wrong_params = shapes.params.errors(asked.get("params", {}))
        if inputs is None or params is None:
            errors = shapes.input.told(wrong_inputs) + shapes.params.told(wrong_params)
            raise BrokenRules(errors, too_large=(wrong_inputs + wrong_params)[0]["type"] in OVERSIZED)
        return Submission(
            model=asked["model"],
            task=TASK_OF[task],
            input=inputs,
            params=params,
            priority=asked.get("priority", DEFAULT_PRIORITY),
            max_attempts=asked.get("max_attempts", 3),
            metadata=asked.get("metadata", {}),
            deadline_s=asked.get("deadline_seconds"),
            reject_if_late=self._rejects_if_late(asked.get("reject_if_late", False), asked.get("deadline_seconds")),
            run_at=self._not_too_far(asked.get("run_at")),
            webhook=self._webhook(asked.get("webhook")),
            caller=caller,
        )

    def _webhook(self, asked: WebhookRequest | None) -> Webhook | None:
        if asked is None:
            return None
        with as_broken_rules():
            return self._webhooks.webhook(asked["url"], asked.get("events"), field="webhook.url")

    @staticmethod
    def _rejects_if_late(asked: bool, deadline_s: float | None) -> bool:
        if asked and deadline_s is None:
            raise BrokenRules([{"field": "reject_if_late", "message": "needs deadline_seconds"}])
        return asked

    def _not_too_far(self, run_at: int | None) -> int | None:
        if run_at is not None and run_at > (self._clock() + LONGEST_AHEAD_S) * 1000:
            raise BrokenRules([{"field": "run_at", "message": "must be at most a year ahead"}])
        return run_at
