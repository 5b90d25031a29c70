"""What a key looks like, and what is kept of one: ``ktq_``, a prefix that everybody may see, ``_``, the secret. Pure.

The secret is 32 random bytes, so nobody can guess it however fast he hashes: one round of SHA-256 is enough, and the
slow hashes that passwords need would only make every request slow. The salt keeps two rows from being compared.
"""

from __future__ import annotations

import hmac
import re
import secrets
from hashlib import sha256
from typing import NamedTuple

PREFIX_BYTES = 6
SECRET_BYTES = 32
SALT_BYTES = 16
_BLOCK = 64
_INNER, _OUTER = (bytes(byte ^ mask for byte in range(256)) for mask in (0x36, 0x5C))
TEXT = re.compile(r"ktq_(?P<prefix>[0-9a-f]{12})_(?P<secret>[A-Za-z0-9_-]{43})", re.ASCII)


class Parts(NamedTuple):
    """A key, as it is written."""

    prefix: str
    secret: str

    def __str__(self) -> str:
        return f"ktq_{self.prefix}_{self.secret}"


class Kept(NamedTuple):
    """What is kept of a secret, in hex."""

    salt: str
    digest: str


NOBODYS = Kept("0" * 2 * SALT_BYTES, "0" * 64)
"""What a key with an unknown prefix is compared with, so that it is refused no sooner than a wrong secret is."""


def new_parts() -> Parts:
    """A fresh key."""
    return Parts(secrets.token_hex(PREFIX_BYTES), secrets.token_urlsafe(SECRET_BYTES))


def parts_of(text: str) -> Parts | None:
    """The parts of what may be a key; None if it is none."""
    match = TEXT.fullmatch(text)
    return None if match is None else Parts(match["prefix"], match["secret"])


def kept_of(secret: str) -> Kept:
    """What to keep of a secret, with a salt of its own."""
    salt = secrets.token_hex(SALT_BYTES)
    return Kept(salt, _digest(secret, salt))


def is_secret(secret: str, kept: Kept) -> bool:
    """Whether ``kept`` was made of this secret; takes as long whatever the answer is."""
    return hmac.compare_digest(_digest(secret, kept.salt), kept.digest)


def _digest(secret: str, salt: str) -> str:
    """HMAC-SHA256 (RFC 2104), hex.

    Written out, since `hmac.digest` lets go of the interpreter for these microseconds, and among many threads gets it
    back much later.
    """
    key = bytes.fromhex(salt).ljust(_BLOCK, b"\0")
    inner = sha256(key.translate(_INNER) + secret.encode("ascii")).digest()
    return sha256(key.translate(_OUTER) + inner).hexdigest()
