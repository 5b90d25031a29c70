"""What a slot and the processes of its stages say to each other: JSON and arrays of numbers over a socket."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import orjson

_LENGTHS = struct.Struct("<QQ")
_BUFFER_BYTES = 4 << 20
"""A step of a thousand tokens fits, so that who sends it need not wait for who reads it."""


class Channel:
    """One end. Messages are a JSON object and any number of arrays of at most two dimensions.

    Several threads may send, one may receive.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = Lock()
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def send(self, message: dict[str, Any], arrays: Sequence[np.ndarray[Any, Any]] = ()) -> None:
        """Raises OSError if the other end is gone."""
        head = orjson.dumps([message, [[array.dtype.str, array.shape] for array in arrays]])
        body = b"".join(array.tobytes() for array in arrays)
        with self._sending:
            self._socket.sendall(_LENGTHS.pack(len(head), len(body)) + head + body)

    def receive(self) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
        """Wait for the next message. Raises EOFError if the other end is gone."""
        head_bytes, body_bytes = _LENGTHS.unpack(self._read(_LENGTHS.size))
        message, shapes = orjson.loads(self._read(head_bytes))
        body, at = self._read(body_bytes), 0
        arrays = []
        for kind, shape in shapes:
            array = np.frombuffer(body, np.dtype(kind), int(np.prod(shape)), at).reshape(shape)
            at += array.nbytes
            arrays.append(array)
        return message, arrays

    def close(self) -> None:
        """The other end finds out."""
        self._socket.close()

    def _read(self, count: int) -> bytearray:
        read = bytearray(count)
        view = memoryview(read)
        while view:
            try:
                got = self._socket.recv_into(view)
            except ConnectionError as error:
                raise EOFError from error
            if not got:
                raise EOFError
            view = view[got:]
        return read
