"""Granian's server, on listening sockets that are there already and may outlive it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server import MPServer
from granian.server.mp import WorkerProcess

BACKLOG = 1024
LONGEST_HEAD = 65_536
"""Bytes of a request's line and headers; so much of a body is read ahead, too."""
READER_STALLS_S = 30
"""A connection is cut once its client has taken nothing of what waits for it for so long (Linux only)."""


class Server(MPServer):
    """RSGI over HTTP/1.1. Its processes have the ``listeners`` in turn; there are no more of those than processes.

    A process that dies loses no connection that waits: its successor accepts from the same socket.
    """

    def __init__(self, listeners: Sequence[socket.socket], **options: Any) -> None:
        address = listeners[0].getsockname()
        super().__init__(
            "",
            address=address[0],
            port=address[1],
            interface=Interfaces.RSGI,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(max_buffer_size=LONGEST_HEAD),
            websockets=False,
            backlog=BACKLOG,
            # One that dies is replaced beside the others. Its successor is there before it is buried: no need to wait.
            respawn_failed_workers=True,
            respawn_interval=0.0,
            **options,
        )
        self._listeners = listeners

    def _init_shared_socket(self) -> None:
        """Granian would open one in each process, and connections that wait in it would die with that process."""
        self._holders = [_holder(listener) for listener in self._listeners]
        vars(self).update(_ssp=None, _sso=None)

    def _spawn_worker(  # type: ignore[override] # it has MPServer's, which differs itself
        self, idx: int, target: Any, callback_loader: Any
    ) -> WorkerProcess:
        which = idx % len(self._listeners)
        vars(self).update(_shd=self._holders[which], _sfd=self._listeners[which].fileno())
        return super()._spawn_worker(idx, target, callback_loader)


def _holder(listener: socket.socket) -> SocketHolder:
    if sys.platform != "linux":
        return SocketHolder(listener.fileno(), False)  # type: ignore[call-arg]
    # Connections have this from the socket that accepted them.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, READER_STALLS_S * 1000)
    return SocketHolder(listener.fileno(), False, BACKLOG)  # type: ignore[call-arg]


def stop_accepting(descriptors: Sequence[int]) -> None:
    """Let the others that share these listening sockets have every connection from now on.

    Granian stops accepting only when it also closes idle connections. So its descriptor is pointed at a socket that
    nobody connects to.
    """
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        nobody.setblocking(False)
        for descriptor in descriptors:
            os.dup2(nobody.fileno(), descriptor)
