"""Whether a worker is known to be dead: never of one that lives, and never a guess."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ktqueue.liveness import identity, is_dead

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")

CHILD = """
import sys
from ktqueue.liveness import identity
print(identity(), flush=True)
sys.stdin.read()
"""


def test_a_process_is_alive_until_it_has_ended_buried_or_not() -> None:
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        name = it.stdout.readline().strip()
        assert not is_dead(name)
        it.kill()
        # Not buried before wait() has returned: until then it is a zombie.
        while it.poll() is None and not is_dead(name):
            pass
        it.wait()
        assert is_dead(name)


def test_one_that_has_the_pid_of_the_dead_is_not_taken_for_it() -> None:
    host, pid, start, machine = identity().rsplit(":", 3)

    assert not is_dead(identity())
    assert is_dead(f"{host}:{pid}:{int(start) - 1}:{machine}")


@pytest.mark.parametrize("worker", ["w", "host:1", "host:1:2:", "host:999999:5:another-machine", "a:b:c:d"])
def test_of_others_nothing_is_known(worker: str) -> None:
    assert not is_dead(worker)
