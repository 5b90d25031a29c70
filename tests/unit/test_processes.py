"""The supervisor over real processes: start in order, restart, stop within a bound, leave none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.stack import alive, until

ROOT = Path(__file__).resolve().parents[2]
NOTES = """import os, signal, subprocess, sys, time

def note(text, pid=os.getpid):
    with open({notes!r}, "a") as notes:
        notes.write(f"{{text}} {{pid()}}\\n")

"""
STAYS = "note('started')\ntime.sleep(600)"


class Supervised:
    """A supervisor in a process of its own, and what its children noted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def program(self, name: str, code: str, **more: Any) -> dict[str, Any]:
        """A Python program that may ``note`` words."""
        head = NOTES.format(notes=str(self._folder / f"{name}.notes"))
        return {"name": name, "argv": [sys.executable, "-c", head + code], **more}

    def start(
        self,
        *programs: dict[str, Any],
        grace_s: float = 5.0,
        start_timeout_s: float = 60.0,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        described = {
            "programs": programs,
            "grace_s": grace_s,
            "start_timeout_s": start_timeout_s,
            "asked": str(self._folder / "asked"),
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.supervised", json.dumps(described)],
                cwd=ROOT,
                stdin=stdin,
                stdout=log,
                stderr=log,
            )

    def ask(self, *programs: dict[str, Any]) -> None:
        """Let these run besides."""
        new = self._folder / "asked.new"
        new.write_text(json.dumps(programs))
        new.replace(self._folder / "asked")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def said(self) -> str:
        return self._log.read_text()

    def notes(self, name: str) -> list[tuple[str, int]]:
        path = self._folder / f"{name}.notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(word, int(pid)) for word, pid in (line.split() for line in lines)]

    def pid(self, name: str, word: str = "started", *, nth: int = 0) -> int:
        """Of the process that noted that word; waits for it."""
        until(lambda: len([1 for noted, _ in self.notes(name) if noted == word]) > nth, f"{name}: {word}")
        return [pid for noted, pid in self.notes(name) if noted == word][nth]

    def status(self) -> int:
        """Of the supervisor, once it has ended."""
        return int(until(lambda: self.process.poll() is not None and (self.process.returncode,), "its end")[0])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.status()


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    one = Supervised(tmp_path)
    yield one
    if one._process is not None:
        one.process.kill()
        one.process.wait()
    for notes in tmp_path.glob("*.notes"):
        for _, pid in one.notes(notes.stem):
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    try:
        return not alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


# --- start -----------------------------------------------------------------------------------------------------


def test_servers_are_ready_before_the_others_start(supervised: Supervised, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    server = supervised.program(
        "server", f"open({str(ready)!r}, 'w')\nnote('ready')\n{STAYS}", serves_others=True, ready=str(ready)
    )
    other = supervised.program("other", f"note('ready' if os.path.exists({str(ready)!r}) else 'early')\n{STAYS}")
    supervised.start(other, server)
    until(lambda: "all are ready" in supervised.said(), "a supervisor that is ready")

    assert supervised.pid("other", "ready")


def test_a_program_that_never_gets_ready_ends_everything(supervised: Supervised, tmp_path: Path) -> None:
    slow = supervised.program("slow", STAYS, ready=str(tmp_path / "never"))
    supervised.start(slow, supervised.program("good", STAYS), start_timeout_s=2.0)
    children = [supervised.pid("slow"), supervised.pid("good")]

    assert supervised.status() == 1
    assert "not ready in time: slow" in supervised.said()
    assert "all are ready" not in supervised.said()
    assert all(gone(pid) for pid in children)


def test_a_stop_is_heard_before_all_are_ready(supervised: Supervised, tmp_path: Path) -> None:
    supervised.start(supervised.program("slow", STAYS, ready=str(tmp_path / "never")))
    child = supervised.pid("slow")

    assert supervised.stop() == 0
    assert gone(child)


# --- restart ---------------------------------------------------------------------------------------------------


def test_one_that_keeps_dying_is_started_again_later_and_later(supervised: Supervised) -> None:
    supervised.start(supervised.program("weak", "note('started')\nsys.exit(3)"), supervised.program("good", STAYS))
    supervised.pid("weak", nth=2)
    pauses = [line for line in supervised.said().splitlines() if line.startswith("weak ended")]

    assert pauses[:2] == ["weak ended with status 3; again in 0.2 s", "weak ended with status 3; again in 0.4 s"]
    assert len(supervised.notes("good")) == 1


def test_one_that_can_not_be_started_for_a_while_is_tried_again(supervised: Supervised, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    described = supervised.program("weak", "note('started')\nsys.exit(3)")
    supervised.start({**described, "argv": [str(python), *described["argv"][1:]]}, supervised.program("good", STAYS))
    supervised.pid("weak")
    python.unlink()
    until(lambda: "weak can't be started: No such file or directory; again in" in supervised.said(), "a failed start")
    started = len(supervised.notes("weak"))
    python.symlink_to(sys.executable)

    assert supervised.pid("weak", nth=started)
    assert len(supervised.notes("good")) == 1


def test_one_that_was_killed_is_started_again_and_leaves_no_child(supervised: Supervised) -> None:
    parent = (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "note('child', lambda: child.pid)\n"
    )
    supervised.start(supervised.program("parent", parent + STAYS))
    first, child = supervised.pid("parent"), supervised.pid("parent", "child")
    os.kill(first, signal.SIGKILL)

    assert supervised.pid("parent", nth=1) != first
    assert "parent ended with SIGKILL" in supervised.said()
    until(lambda: gone(child), "the child of the dead to be ended")


def test_one_that_ends_in_good_order_is_started_again_at_once(supervised: Supervised) -> None:
    supervised.start(supervised.program("api", "note('started')\ntime.sleep(1.5)"))
    assert supervised.pid("api", nth=2)

    assert "back" not in supervised.said()
    assert supervised.said().count("api has ended in good order; again at once") >= 2


# --- rolling restart -------------------------------------------------------------------------------------------

LEAVES = "signal.signal(signal.SIGTERM, lambda *_: (note('left'), sys.exit()))\n"
ANNOUNCES = "from ktqueue.process import announce\nannounce()\n"


def test_a_rolling_restart_replaces_one_after_the_other_but_no_server(supervised: Supervised) -> None:
    names = ["first", "second", "third"]
    supervised.start(
        supervised.program("server", STAYS, serves_others=True),
        *(supervised.program(name, LEAVES + "note(str(time.monotonic_ns()))\n" + STAYS) for name in names),
    )
    until(lambda: "all are ready" in supervised.said(), "a supervisor that is ready")
    old = [supervised.pid(name) for name in names]
    supervised.process.send_signal(signal.SIGHUP)
    until(lambda: "everything has been restarted" in supervised.said(), "the end of the rolling restart")
    new = [supervised.pid(name, nth=1) for name in names]

    assert all(gone(pid) for pid in old)
    assert not any(gone(pid) for pid in new)
    assert len(supervised.notes("server")) == 1
    begun = [int(word) for name in names for word, pid in supervised.notes(name) if word.isdigit() and pid in new]
    assert len(begun) == 3
    assert begun == sorted(begun)
    assert "again in" not in supervised.said()


def test_what_is_asked_for_besides_comes_and_goes(supervised: Supervised) -> None:
    one, two = (supervised.program(name, LEAVES + STAYS) for name in ("one", "two"))
    supervised.start(supervised.program("always", STAYS))
    supervised.ask(one)
    first = supervised.pid("one")
    supervised.ask(one, two)
    supervised.pid("two")
    supervised.ask(two)
    assert supervised.pid("one", "left") == first
    until(lambda: gone(first), "the end of the one")
    supervised.ask(one)
    supervised.pid("one", nth=1)
    supervised.pid("two", "left")

    assert [len(supervised.notes(name)) for name in ("always", "one", "two")] == [1, 3, 2]
    assert supervised.stop() == 0
    assert gone(supervised.pid("one", nth=1))


def test_one_that_is_asked_for_again_waits_for_its_own_end(supervised: Supervised, tmp_path: Path) -> None:
    held = "signal.signal(signal.SIGTERM, lambda *_: note('told'))\n"
    waits = f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.05)\n"
    one, other = supervised.program("one", held + f"note('started')\n{waits}"), supervised.program("other", STAYS)
    supervised.start(other, grace_s=60.0)
    supervised.ask(one)
    first = supervised.pid("one")
    supervised.ask()
    supervised.pid("one", "told")
    supervised.ask(one, supervised.program("later", STAYS))
    supervised.pid("later")
    assert not gone(first)
    assert len([word for word, _ in supervised.notes("one") if word == "started"]) == 1
    (tmp_path / "go").touch()

    assert supervised.pid("one", nth=1) != first
    assert gone(first)


def test_one_that_is_no_longer_asked_for_and_does_not_leave_is_killed(supervised: Supervised) -> None:
    deaf = supervised.program("deaf", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + STAYS)
    supervised.start(supervised.program("other", STAYS), grace_s=0.1)
    supervised.ask(deaf)
    child = supervised.pid("deaf")
    supervised.ask()

    until(lambda: gone(child), "the end of the deaf")
    assert len(supervised.notes("deaf")) == 1


def test_a_stop_ends_those_too_that_are_about_to_leave(supervised: Supervised) -> None:
    deaf = supervised.program(
        "deaf", "signal.signal(signal.SIGTERM, lambda *_: note('told'))\nnote('started')\nwhile True: time.sleep(1)"
    )
    supervised.start(supervised.program("other", STAYS), grace_s=0.5)
    supervised.ask(deaf)
    child = supervised.pid("deaf")
    supervised.ask()
    supervised.pid("deaf", "told")

    assert supervised.stop() == 0
    assert gone(child)


def test_one_that_overlaps_leaves_once_its_successor_is_ready(supervised: Supervised, tmp_path: Path) -> None:
    waits = f"note('begun')\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.05)\n"
    (tmp_path / "go").touch()
    supervised.start(supervised.program("api", LEAVES + waits + ANNOUNCES + STAYS, overlaps=True))
    old = supervised.pid("api")
    until(lambda: "all are ready" in supervised.said(), "a supervisor that is ready")
    (tmp_path / "go").unlink()
    supervised.process.send_signal(signal.SIGHUP)
    new = supervised.pid("api", "begun", nth=1)
    assert not gone(old)
    assert "left" not in [word for word, _ in supervised.notes("api")]
    (tmp_path / "go").touch()
    until(lambda: "everything has been restarted" in supervised.said(), "the end of the rolling restart")

    assert gone(old)
    assert not gone(new)


def test_a_successor_that_does_not_get_ready_changes_nothing(supervised: Supervised, tmp_path: Path) -> None:
    silent = f"if not os.path.exists({str(tmp_path / 'silent')!r}): announce()\n"
    supervised.start(
        supervised.program("api", ANNOUNCES.partition("announce()\n")[0] + silent + STAYS, overlaps=True),
        supervised.program("next", STAYS),
        start_timeout_s=5.0,
    )
    old = supervised.pid("api")
    until(lambda: "all are ready" in supervised.said(), "a supervisor that is ready")
    (tmp_path / "silent").touch()
    supervised.process.send_signal(signal.SIGHUP)
    until(lambda: "api was not ready in time" in supervised.said(), "the supervisor to give up")

    assert not gone(old)
    assert gone(supervised.pid("api", nth=1))
    assert len(supervised.notes("next")) == 1
    assert supervised.stop() == 0
    assert gone(old)


def test_a_stop_in_the_middle_of_a_rolling_restart_leaves_none(supervised: Supervised, tmp_path: Path) -> None:
    silent = f"if not os.path.exists({str(tmp_path / 'silent')!r}): announce()\n"
    supervised.start(supervised.program("api", ANNOUNCES.partition("announce()\n")[0] + silent + STAYS, overlaps=True))
    until(lambda: "all are ready" in supervised.said(), "a supervisor that is ready")
    (tmp_path / "silent").touch()
    supervised.process.send_signal(signal.SIGHUP)
    both = [supervised.pid("api"), supervised.pid("api", nth=1)]

    assert supervised.stop() == 0
    assert all(gone(pid) for pid in both)


def test_a_terminal_that_is_closed_ends_everything(supervised: Supervised) -> None:
    ours, theirs = os.openpty()
    supervised.start(supervised.program("one", STAYS), stdin=theirs)
    os.close(theirs)
    until(lambda: "all are ready" in supervised.said(), "a supervisor that is ready")
    supervised.process.send_signal(signal.SIGHUP)
    until(lambda: "everything has been restarted" in supervised.said(), "a rolling restart")
    new = supervised.pid("one", nth=1)
    os.close(ours)
    supervised.process.send_signal(signal.SIGHUP)

    assert supervised.status() == 0
    assert gone(new)


# --- stop ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_all_servers_last(supervised: Supervised, number: signal.Signals) -> None:
    leaves = "signal.signal(signal.SIGTERM, lambda *_: (note('ended'), note(str(time.monotonic_ns())), sys.exit()))\n"
    supervised.start(
        supervised.program("server", leaves + STAYS, serves_others=True), supervised.program("other", leaves + STAYS)
    )
    children = [supervised.pid("server"), supervised.pid("other")]

    assert supervised.stop(number) == 0
    assert all(gone(pid) for pid in children)
    ended_at = {name: int(supervised.notes(name)[-1][0]) for name in ("server", "other")}
    assert ended_at["other"] < ended_at["server"]


def test_one_that_does_not_listen_is_killed_with_its_children(supervised: Supervised) -> None:
    deaf = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n  note('child')\n  time.sleep(600)\n" + STAYS
    )
    supervised.start(supervised.program("deaf", deaf), grace_s=0.1)
    family = [supervised.pid("deaf"), supervised.pid("deaf", "child")]

    assert supervised.stop() == 0
    until(lambda: all(gone(pid) for pid in family), "the deaf to be ended")


def test_children_of_one_that_listens_are_ended_too(supervised: Supervised) -> None:
    supervised.start(supervised.program("parent", f"if os.fork() == 0:\n  note('child')\n  time.sleep(600)\n{STAYS}"))
    family = [supervised.pid("parent"), supervised.pid("parent", "child")]

    assert supervised.stop() == 0
    until(lambda: all(gone(pid) for pid in family), "the children to be ended")


def test_the_children_of_a_killed_supervisor_end(supervised: Supervised) -> None:
    """One is ended by the kernel; one that is ours sees it for itself, and is killed if it does not leave."""
    ours = "from ktqueue.process import die_with_parent\ndie_with_parent(0.1)\n"
    deaf = ours + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    programs = [supervised.program("ours", ours + STAYS), supervised.program("deaf", deaf + STAYS)]
    if sys.platform == "linux":
        programs.append(supervised.program("foreign", STAYS))
    supervised.start(*programs)
    children = [supervised.pid(described["name"]) for described in programs]
    assert supervised.stop(signal.SIGKILL) == -signal.SIGKILL

    until(lambda: all(gone(pid) for pid in children), "the orphans to end")


@pytest.mark.parametrize("end", ["ours", "told"])
def test_a_child_may_be_told_in_its_own_way_that_its_parent_died(supervised: Supervised, end: str) -> None:
    code = {
        "ours": "watch_parent(os.getppid(), lambda: note('told'), 0.1)\n",
        "told": "watch_parent(os.getppid(), lambda: (note('told'), os._exit(0)), 600.0)\n",
    }[end]
    # The kernel's own signal must not come first.
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nfrom ktqueue.process import watch_parent\n"
    supervised.start(supervised.program("watcher", deaf + code + STAYS))
    child = supervised.pid("watcher")
    supervised.stop(signal.SIGKILL)

    assert supervised.pid("watcher", "told") == child
    until(lambda: gone(child), "the watcher to end")
