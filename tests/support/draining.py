"""A drain loop in a scene: its engine, its stop, and jobs for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ktqueue.job import Job, JobState
from tests.support.scene import MODEL, Scene
from tests.support.toy import ToyEngine
from worker.meter import LaneMeter, Unmetered
from worker.runner import Runner

STEP_S = 0.01
HEARTBEAT_S = 2.0
GRACE_S = 5.0


class Stop:
    """Whether a stop was asked."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def ask(self) -> None:
        self.asked = True


def toy(scene: Scene, capacity: int = 4, at: Mapping[int, Callable[[], object]] | None = None) -> ToyEngine:
    return ToyEngine(capacity, at=at, each_step=lambda: scene.clock.sleep(STEP_S))


def runner(
    scene: Scene,
    engine: ToyEngine,
    stop: Callable[[], bool] = lambda: False,
    meter: LaneMeter = Unmetered(),  # noqa: B008 - it has no state
) -> Runner:
    return Runner(
        scene.execution,
        engine,
        model=MODEL,
        worker="w",
        heartbeat_s=HEARTBEAT_S,
        grace_s=GRACE_S,
        stopping=stop,
        clock=scene.clock.monotonic,
        sleep=scene.clock.sleep,
        meter=meter,
    )


def job_of(scene: Scene, steps: int = 1, fail: str | None = None, **given: object) -> Job:
    scene.clock.sleep(0.001)  # ranks, and with them the order, are one millisecond apart
    return scene.submit(params={"steps": steps} | ({"fail": fail} if fail else {}), **given)


def states(scene: Scene, jobs: list[Job]) -> list[JobState]:
    return [scene.row(job).state for job in jobs]
