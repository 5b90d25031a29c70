"""Processes that count in one folder: each in its own ledger, which the next one takes when it has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ktqueue.ledgers import Holder, Ledger, Role, survey, take

API, LANE = Role("api"), Role("lane", "echo")
KEEPER = """
import sys, pathlib
from ktqueue.ledgers import Role, take
ledger = take(pathlib.Path(sys.argv[1]), Role("lane", "echo"))
print(ledger.number, flush=True)
for line in sys.stdin:
    ledger.close()
    break
"""


class Keeper:
    """A process with a ledger."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", KEEPER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.number = self.process.stdout.readline().strip()

    def end(self, number: signal.Signals | None = None) -> None:
        if number is not None:
            self.process.send_signal(number)
        self.process.communicate("leave\n" if number is None else None)


def let_go(ledger: Ledger) -> None:
    """As the kernel does when a process ends."""
    os.close(ledger._descriptor)


def test_those_that_live_have_ledgers_of_their_own(tmp_path: Path) -> None:
    ledgers = [take(tmp_path, API), take(tmp_path, LANE), take(tmp_path, LANE)]

    assert [each.number for each in ledgers] == ["0", "1", "2"]
    seen = survey(tmp_path)
    assert sorted(holder.role.process for holder in seen.living) == ["api", "lane", "lane"]
    assert {holder.pid for holder in seen.living} == {os.getpid()}
    assert not seen.crashes


@pytest.mark.parametrize("looked_between", [False, True])
def test_one_that_is_killed_is_counted_once_and_replaced(tmp_path: Path, looked_between: bool) -> None:
    me = take(tmp_path, API)
    for deaths in range(1, 4):
        other = Keeper(tmp_path)
        assert other.number == "1"
        (tmp_path / "counter_1.db").write_bytes(b"counted")
        (tmp_path / "gauge_livesum_1.db").write_bytes(b"told")
        (tmp_path / "gauge_livesum_0.db").write_bytes(b"told")
        other.end(signal.SIGKILL)
        if looked_between:
            assert survey(tmp_path).crashes == {LANE: deaths}
    last = Keeper(tmp_path)

    seen = survey(tmp_path)
    assert (last.number, seen.crashes) == ("1", {LANE: 3})
    assert set(seen.living) == {Holder(os.getpid(), API), Holder(last.process.pid, LANE)}
    assert sorted(Path(name).name for name in seen.files) == ["counter_1.db", "gauge_livesum_0.db"]
    last.end()
    let_go(me)


def test_one_that_ends_in_good_order_did_not_crash(tmp_path: Path) -> None:
    other = Keeper(tmp_path)
    other.end()

    assert survey(tmp_path).crashes == {}
    assert take(tmp_path, API).number == "0"
    assert survey(tmp_path).crashes == {}


def test_what_roles_crashed_of_is_told_apart_though_they_had_the_same_ledger(tmp_path: Path) -> None:
    for role in (API, LANE, LANE):
        let_go(take(tmp_path, role))

    assert survey(tmp_path).crashes == {API: 1, LANE: 2}


def test_a_ledger_that_was_made_and_never_taken_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "0.ledger").touch()

    assert survey(tmp_path) == survey(tmp_path)
    assert survey(tmp_path).crashes == {}
    assert take(tmp_path, API).number == "0"


def test_a_file_without_numbers_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "counter_0.db").touch()

    assert survey(tmp_path).files == []
