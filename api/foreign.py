"""Where no key is asked for, a browser must not act for whoever else wrote the page that it shows.

A page of any site can have its reader's browser send a request to his own machine. Two things tell it from his own
programs: `Origin`, which browsers send with what changes something; and `Host`, which is a name of that site's, where
its owner has let the name lead to this machine ("DNS rebinding"), so that even answers could be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any, TypeAlias

from ktqueue.errors import ForeignPage, UnknownHost

Check: TypeAlias = Callable[[str, Mapping[str, Any]], None]

PRIVATE = (".localhost", ".local", ".internal", ".home.arpa")
"""Nobody can have a name of these that leads somewhere for everybody."""
_SAFE = frozenset({"GET", "HEAD"})


def foreign(hosts: str) -> Check:
    """A check of a request's method and environment; ``hosts`` are further names to be asked by, comma separated.

    It raises ForeignPage or UnknownHost.
    """
    names = frozenset(_plain(host) for host in hosts.split(",") if host.strip())

    def check(method: str, environ: Mapping[str, Any]) -> None:
        host = environ.get("HTTP_HOST", "").lower()
        name = _name_of(host)
        if not (name in names or _nobody_elses(name)):
            raise UnknownHost(f"without a key nobody is answered who asks for {name!r}; KTQ_HOSTS can name it")
        origin = environ.get("HTTP_ORIGIN")
        if method not in _SAFE and origin is not None and origin.partition("://")[2].lower() != host:
            raise ForeignPage("a web page of another site may not change anything here, unless it sends a key")

    return check


def _plain(name: str) -> str:
    return name.strip().lower().removesuffix(".")


def _name_of(host: str) -> str:
    """Without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return _plain(host.partition(":")[0])


def _nobody_elses(name: str) -> bool:
    """An address, a name without a dot, or one that only means something in a private network."""
    if "." not in name or name.endswith(PRIVATE):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
