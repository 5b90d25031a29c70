"""Where servers stand: on this machine's loopback, or in a network of their own that can be cut off without a word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network


class Place:
    """Loopback."""

    address = "127.0.0.1"
    neighbours = "127.0.0.1/32"
    """Whom a server there may trust."""

    @property
    def addresses(self) -> Sequence[str]:
        """Every address that a server there has, `address` the first."""
        return (self.address,)

    def inside(self, command: Sequence[str], user: str | None = None) -> tuple[list[str], str | None]:
        """What to start, and as whom, so that ``command`` runs there as ``user``."""
        return list(command), user


class Elsewhere(Place):
    """A network namespace at the other end of a virtual cable. Addresses are of the block reserved for tests.

    It has two more ``doors``: addresses of the same servers, so that whoever uses one can be cut off alone.
    """

    def __init__(self) -> None:
        block = ip_network("198.18.0.0/15")
        network = ip_network((int(block.network_address) + os.getpid() % 2**14 * 8, 29))  # other tests may run too
        here, there, *doors = map(str, network.hosts())
        self.address, self.neighbours = there, str(network)
        self.doors = doors[:2]
        self._gateway = f"{here}/29"
        self._name = f"ktq{os.getpid()}"
        self._here, self._there = f"{self._name}h", f"{self._name}t"

    @property
    def addresses(self) -> Sequence[str]:
        """As above."""
        return (self.address, *self.doors)

    def make(self) -> None:
        """Raises CalledProcessError where this user may not, and then leaves nothing behind."""
        self._ip("netns", "add", self._name)
        try:
            self._connect()
        except subprocess.CalledProcessError:
            self.remove()
            raise

    def _connect(self) -> None:
        self._ip("link", "add", self._here, "type", "veth", "peer", "name", self._there, "netns", self._name)
        self._ip("addr", "add", self._gateway, "dev", self._here)
        self._ip("link", "set", self._here, "up")
        self._ip("-n", self._name, "link", "set", "lo", "up")
        self._ip("-n", self._name, "link", "set", self._there, "up")
        for address in self.addresses:
            self.heal(address)

    def remove(self) -> None:
        """Take the namespace away, and with it both ends of the cable."""
        self._ip("netns", "del", self._name)

    def cut(self, door: str | None = None) -> None:
        """Drop every packet either way, or only those by a door: nothing is refused, nothing is reset."""
        self._ip("-n", self._name, "addr", "del", self._prefix(door), "dev", self._there)

    def heal(self, door: str | None = None) -> None:
        """Let packets through again."""
        self._ip("-n", self._name, "addr", "add", self._prefix(door), "dev", self._there)

    def _prefix(self, door: str | None) -> str:
        # The way back to us is that of the first address, so without it the doors lead nowhere.
        return f"{door}/32" if door in self.doors else f"{self.address}/29"

    def inside(self, command: Sequence[str], user: str | None = None) -> tuple[list[str], str | None]:
        """Only root may enter, so it is in there that one becomes ``user``."""
        become = ["setpriv", f"--reuid={user}", "--clear-groups"] if user else []
        return ["ip", "netns", "exec", self._name, *become, *command], None

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def elsewhere() -> Iterator[Place]:
    """A network of its own if this user may make one, else loopback."""
    tools = all(shutil.which(tool) for tool in ("ip", "setpriv"))
    if not (sys.platform == "linux" and tools and os.geteuid() == 0):
        yield Place()
        return
    there = Elsewhere()
    try:
        there.make()
    except subprocess.CalledProcessError:
        yield Place()  # root of a container that may not
        return
    try:
        yield there
    finally:
        there.remove()
