"""Where webhooks may go, so that nobody turns our requests against the network we stand in. Pure.

A URL is checked when it is given, without asking a name server, and again at every attempt with all the addresses that
its name then has. Which addresses are public is what IANA's registries of special-purpose addresses say (RFC 6890).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import idna

from ktqueue.errors import ConfigurationError, Invalid

Address = IPv4Address | IPv6Address

LONGEST_URL = 2_048
DEFAULT_PORTS = {"http": 80, "https": 443}

_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\\\s]")
_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<path>[\x21-\x7e]*)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[1-9][0-9]{0,4}))?")
_NAME = re.compile(r"(?=.{1,253}$)(?!.*\.$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.|$))+")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

_INSIDE = frozenset({"localhost", "localdomain", "local", "internal", "intranet", "private", "corp", "home", "lan"})
"""Last labels of names that mean something only inside a network (RFC 6761, 6762; ICANN's reserved ones)."""

_NOT_PUBLIC_4 = [
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # what a virtual machine on Azure reaches its host by
    )
]
_GLOBAL_6 = IPv6Network("2000::/3")
"""All else is unassigned or special: loopback, private, link-local, multicast, IPv4 in mapped and NAT64 form."""
_NOT_PUBLIC_6 = [
    IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")  # Teredo and more, examples, 6to4, examples
]


def is_public(address: Address) -> bool:
    """Whether it is an ordinary address of the internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _GLOBAL_6 and not any(address in network for network in _NOT_PUBLIC_6)


@dataclass(frozen=True, slots=True)
class Destination:
    """A URL in parts. ``host`` is in lower-case ASCII, without brackets; ``address`` is it, if it is one.

    ``path`` is what a request line names, the query with it.
    """

    scheme: str
    host: str
    port: int
    path: str
    address: Address | None

    @property
    def host_header(self) -> str:
        """What a request's Host header says."""
        return self._host if self.port == DEFAULT_PORTS[self.scheme] else f"{self._host}:{self.port}"

    @property
    def origin(self) -> str:
        """``https://host:port``, by which receivers are told apart."""
        return f"{self.scheme}://{self._host}:{self.port}"

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def destination(url: str, *, field: str = "url") -> Destination:
    """The parts of an http or https URL. Raises Invalid, of ``field``, if there is any doubt what it means."""
    try:
        return _parsed(url)
    except ValueError as error:
        raise Invalid(str(error), field=field) from None


def origin(url: str) -> str:
    """``https://host:port`` of a URL. Raises Invalid."""
    return destination(url).origin


@lru_cache(maxsize=4_096)  # a receiver is called over and over
def _parsed(url: str) -> Destination:
    if len(url) > LONGEST_URL:
        raise ValueError(f"must have at most {LONGEST_URL} characters, not {len(url)}")
    if _UNPRINTABLE.search(url):
        raise ValueError("must hold no spaces, control characters or backslashes")
    if "#" in url:
        raise ValueError("must have no fragment: nothing after a #")
    parts = _URL.fullmatch(url)
    if parts is None:
        raise ValueError("must begin with http:// or https://, and be ASCII but for its host: percent-encode the rest")
    if "@" in parts["authority"]:
        raise ValueError("must hold no user name and no password")
    place = _AUTHORITY.fullmatch(parts["authority"])
    if place is None or not place["host"]:
        raise ValueError("must name a host, and after it at most a port, as in https://example.com:8443/")
    scheme, path = parts["scheme"].lower(), parts["path"]
    port = int(place["port"] or DEFAULT_PORTS[scheme])
    if port > 65_535:
        raise ValueError(f"must have a port up to 65535, not {port}")
    host, address = _host(place["host"])
    return Destination(scheme, host, port, path if path.startswith("/") else f"/{path}", address)


def _host(text: str) -> tuple[str, Address | None]:
    """The host as we write it, and as an address if it is one. Raises ValueError."""
    if text.startswith("["):
        address = _address(text[1:-1])
        if not isinstance(address, IPv6Address) or "%" in text:
            raise ValueError(f"must name a host: {text} is not an IPv6 address")
        return str(address), address
    name = _ascii(text.lower())
    if not _NAME.fullmatch(name):
        raise ValueError(f"must name a host: {text!r} is not a name")
    # Resolvers read 127.1, 0x7f000001 and 2130706433 as addresses as well, each in its own way.
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        address = _address(name)
        if address is None:
            raise ValueError(f"must name a host: write the address {text!r} as four decimal numbers")
        return str(address), address
    return name, None


def _ascii(name: str) -> str:
    if name.isascii():
        return name
    try:
        return idna.encode(name).decode()
    except idna.IDNAError:
        raise ValueError(f"must name a host: {name!r} is not an internationalised name") from None


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class _Trusted:
    """One entry of KTQ_WEBHOOK_ALLOW: a name or a network, and a port or any."""

    entry: IPv4Network | IPv6Network | str
    port: int | None

    def covers(self, host: str, port: int, address: Address | None) -> bool:
        if self.port not in {None, port}:
            return False
        return self.entry == host if isinstance(self.entry, str) else address is not None and address in self.entry


class AddressRules:
    """What may be called: public addresses on some ports, and whatever the operator trusts.

    ``allow``: names, addresses and networks, comma separated, each of one port if it ends in ``:port``.
    ``ports``: numbers, comma separated. Raises ConfigurationError.
    """

    def __init__(self, allow: str, ports: str) -> None:
        self._trusted = tuple(_trusted(entry) for entry in _entries(allow))
        self._ports = tuple(_port(entry) for entry in _entries(ports))

    def check_url(self, url: str, *, field: str = "url") -> Destination:
        """The parts of a URL that may be called, as far as one can tell without a name server. Raises Invalid."""
        to = destination(url, field=field)
        if self._trusts(to, to.address):
            return to
        if to.port not in self._ports:
            allowed = ", ".join(str(port) for port in self._ports) or "none"
            raise Invalid(
                f"must have a port that is allowed ({allowed}), not {to.port}; an operator may allow more", field=field
            )
        inside = _is_inside(to.host) if to.address is None else not is_public(to.address)
        if inside:
            raise Invalid(
                f"must name a public host: {to.host} is inside a network; an operator may allow it by name", field=field
            )
        return to

    def permits(self, to: Destination, addresses: Iterable[Address]) -> bool:
        """Whether all of the addresses that ``to`` has may be called. One that may not spoils the others."""
        return all(
            self._trusts(to, address) or (to.port in self._ports and is_public(address)) for address in addresses
        )

    def _trusts(self, to: Destination, address: Address | None) -> bool:
        return any(trusted.covers(to.host, to.port, address) for trusted in self._trusted)


def _is_inside(name: str) -> bool:
    *above, last = name.split(".")
    return not above or last in _INSIDE or name.endswith(".home.arpa")


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def _port(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > 65_535:
        raise ConfigurationError(f"{text!r} is not a port: write numbers from 1 to 65535, comma separated")
    return int(text)


def _trusted(entry: str) -> _Trusted:
    bracketed = re.fullmatch(r"\[([^\[\]]+)\](?::(.*))?", entry)
    if bracketed:
        what, port = bracketed.groups()
    elif entry.count(":") == 1:
        what, port = entry.split(":")
    else:
        what, port = entry, None
    return _Trusted(_name_or_network(what.lower()), None if port is None else _port(port))


def _name_or_network(text: str) -> IPv4Network | IPv6Network | str:
    try:
        return ip_network(text)
    except ValueError:
        name = _NAME.fullmatch(text)
    if not name or _NUMBER.fullmatch(text.rpartition(".")[2]):
        raise ConfigurationError(
            f"{text!r} is neither a host name nor an address nor a network: write example.internal, "
            "10.1.2.3, 10.0.0.0/8 or [::1], each with :port if only that port is meant"
        )
    return text
