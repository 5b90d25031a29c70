"""Failpoints: every commit and every send as a place at which a process can be made to die, for tests.

Every call of a port has two, ``store.finish.before`` and ``store.finish.after``. One is armed by a file of that name in
the folder that KTQ_FAILPOINTS gives: whoever gets there first takes the file away and is killed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

Port = TypeVar("Port")


class Failpoints:
    """Those of one folder; without one, ports are left as they are."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder) if folder else None

    def around(self, name: str, port: Port) -> Port:
        """The same port, its methods (or it itself, if it is called) with failpoints before and after."""
        return port if self._folder is None else cast("Port", _Port(name, port, self._reach))

    def _reach(self, point: str) -> None:
        assert self._folder is not None
        try:
            (self._folder / point).unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class _Port:
    def __init__(self, name: str, port: Any, reach: Callable[[str], None]) -> None:
        self._name = name
        self._port = port
        self._reach = reach

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return self._watched(f"{self._name}.{method}", getattr(self._port, method))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._watched(self._name, self._port)(*args, **kwargs)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._reach(f"{name}.before")
            answer = call(*args, **kwargs)
            self._reach(f"{name}.after")
            return answer

        return watched
