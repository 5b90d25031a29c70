"""Celery's pool is told of a child's end a moment before the child can be waited for."""

from __future__ import annotations

from typing import Any

import pytest
from celery.concurrency.asynpool import AsynPool

from worker.pool import AttentivePool


class Hub:
    """Celery's event loop, as far as is needed here; ``later`` is what it was asked to call."""

    def __init__(self) -> None:
        self.later: list[tuple[Any, ...]] = []

    def call_later(self, _delay: float, *call: Any) -> None:
        self.later.append(call)


@pytest.mark.parametrize("looks", [1, 2, 5])
def test_it_looks_until_the_child_can_be_waited_for(looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    child, hub, looked = object(), Hub(), []
    pool = AttentivePool.__new__(AttentivePool)
    pool._pool = [child]  # type: ignore[attr-defined]

    def look(_pool: AsynPool, _hub: Hub, process: object) -> None:
        looked.append(process)
        if len(looked) == looks:
            _pool._pool.remove(process)  # type: ignore[attr-defined]

    monkeypatch.setattr(AsynPool, "_event_process_exit", look)
    pool._event_process_exit(hub, child)
    while hub.later:
        call, *arguments = hub.later.pop()
        call(*arguments)

    assert looked == [child] * looks
