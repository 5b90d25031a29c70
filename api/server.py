"""Granian's server, on a listening socket that is there already and may outlive it."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server import MPServer

BACKLOG = 1024
LONGEST_HEAD = 65_536
"""Bytes of a request's line and headers; so much of a body is read ahead, too."""
READER_STALLS_S = 30
"""A connection is cut once its client has taken nothing of what waits for it for so long (Linux only)."""


class Server(MPServer):
    """RSGI over HTTP/1.1 on ``listener``. All its processes accept from the one socket, so none loses a connection."""

    def __init__(self, listener: socket.socket, **options: Any) -> None:
        address = listener.getsockname()
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
        self._listener = listener

    def _init_shared_socket(self) -> None:
        """Granian would open one for each process, and connections that wait in it would die with that process."""
        descriptor = self._listener.fileno()
        if sys.platform == "linux":
            # Connections have this from the socket that accepted them.
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, READER_STALLS_S * 1000)
            holder = SocketHolder(descriptor, False, BACKLOG)  # type: ignore[call-arg]
        else:
            holder = SocketHolder(descriptor, False)  # type: ignore[call-arg]
        vars(self).update(_ssp=None, _shd=holder, _sfd=descriptor, _sso=None)


def stop_accepting(descriptor: int) -> None:
    """Let the others that share a listening socket have every connection from now on.

    Granian stops accepting only when it also closes idle connections. So its descriptor is pointed at a socket that
    nobody connects to.
    """
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        nobody.setblocking(False)
        os.dup2(nobody.fileno(), descriptor)
