"""Each child of a lane's worker has a place of its own, and whoever comes after one that died has that one's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from worker.places import NoPlace, Places, Seat

PLACES = (("cuda:0",), ("cuda:1", "cuda:2"), ("cpu",))


class Family:
    """Children that take a place each and keep it. Forked in a process of their own: this one has threads."""

    def __init__(self) -> None:
        self._places = Places(PLACES, sleep=lambda _: None)

    def child(self) -> tuple[int, str]:
        ear, mouth = os.pipe()
        if (pid := os.fork()) == 0:
            try:
                told = repr(self._places.take())
            except NoPlace as error:
                told = str(error)
            os.write(mouth, told.encode())
            signal.pause()
        return pid, os.read(ear, 1_000).decode()

    def end(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def scene() -> None:
    """Three children, one more for whom there is no place, and one after the second has died."""
    family = Family()
    pids, told = zip(*(family.child() for _ in PLACES), strict=True)
    assert told == tuple(repr(Seat(number, place)) for number, place in enumerate(PLACES)), told
    late, said = family.child()
    assert said == "all 3 places are taken", said
    family.end(pids[1])
    heir, inherited = family.child()
    assert inherited == told[1], inherited
    for pid in (pids[0], pids[2], late, heir):
        family.end(pid)


def test_places_are_taken_once_and_given_back_by_death() -> None:
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    scene()
