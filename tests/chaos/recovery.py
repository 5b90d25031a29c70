"""How long it takes until what a victim held is somewhere else. It measures; it does not judge."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import sqlalchemy.exc

from tests.chaos.history import Action
from tests.chaos.services import Service

LOOK_S = 0.025


@dataclass(slots=True)
class _Waiting:
    action: Action
    since: float
    left: dict[str, int] = field(default_factory=dict)


class Recovery(threading.Thread):
    """Watches the jobs of each victim until all of them have ended or run again under a newer claim."""

    def __init__(self, service: Service) -> None:
        super().__init__(name="recovery", daemon=True)
        self._service = service
        self._waiting: list[_Waiting] = []
        self._stopping = threading.Event()

    def watch(self, action: Action, held: dict[str, int], since: float) -> None:
        """``held``: jobs with their count of claims. The seconds become ``action.measured['recovery']``."""
        action.measured["held"] = len(held)
        if held:
            self._waiting.append(_Waiting(action, since, dict(held)))

    def run(self) -> None:
        """Look again and again."""
        while not self._stopping.wait(LOOK_S):
            if self._waiting:
                self._look()

    def finish(self) -> None:
        """Look for the last time."""
        self._stopping.set()
        self.join()

    def _look(self) -> None:
        waiting = list(self._waiting)
        ids = sorted({job_id for each in waiting for job_id in each.left})
        try:
            progress = self._service.progress(ids)
        except sqlalchemy.exc.DBAPIError:
            return  # the database itself is being restarted; look again
        now = time.monotonic()
        for each in waiting:
            for job_id, claims in list(each.left.items()):
                if progress[job_id].moved_on(claims):
                    del each.left[job_id]
            if not each.left:
                each.action.measured["recovery"] = now - each.since
                self._waiting.remove(each)
