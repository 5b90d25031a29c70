"""Keys, and what is made with them: signatures (Standard Webhooks v1 and v1a), and secrets sealed for storage. Pure."""

from __future__ import annotations

import base64
import hmac
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ktqueue.errors import ConfigurationError, NotVerified, SecretUnreadable
from ktqueue.tenant import DEFAULT_TENANT

KEY_BYTES = 32
NONCE_BYTES = 12
SECRET_PREFIX, PUBLIC_PREFIX = "whsec_", "whpk_"
SEAL_VERSION = "s1:"
TOLERANCE_S = 300
"""How far a timestamp may be from a receiver's clock; beyond that it may be an old request that someone repeats."""


def new_secret() -> str:
    """A fresh signing secret: ``whsec_`` and 32 random bytes in standard base64, for some clients read no other."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(KEY_BYTES)).decode()


def new_key() -> str:
    """A fresh key for KTQ_SECRET_KEY: 32 random bytes in base64."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


@dataclass(frozen=True, slots=True, repr=False)
class _Key:
    """One key of the service, and what HKDF (RFC 5869) derives from it."""

    cipher: AESGCM
    signer: Ed25519PrivateKey
    root: bytes

    @classmethod
    def derived_from(cls, key: bytes) -> _Key:
        return cls(
            cipher=AESGCM(_derived(key, b"secrets at rest")),
            signer=Ed25519PrivateKey.from_private_bytes(_derived(key, b"webhook signing key")),
            root=key,
        )

    def default_secret(self, tenant: str) -> str:
        # A tenant that knew another's could send its receivers whatever it likes.
        purpose = b"default webhook secret" + (b"" if tenant == DEFAULT_TENANT else b" of " + tenant.encode())
        return SECRET_PREFIX + base64.b64encode(_derived(self.root, purpose)).decode()


class Keyring:
    """The service's keys. ``text`` is what KTQ_SECRET_KEY says: the first seals and is shown, all open and sign.

    Raises ConfigurationError, which never repeats the text.
    """

    def __init__(self, text: str) -> None:
        self._keys = [_Key.derived_from(_key(part)) for part in text.split(",")]

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._keys)}>"

    def seal(self, text: str, context: str) -> str:
        """``text``, encrypted (AES-256-GCM); it opens only with the same ``context``, the id of its owner."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._keys[0].cipher.encrypt(nonce, text.encode(), context.encode())
        return SEAL_VERSION + base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str, context: str) -> str:
        """What was sealed, by whichever key. Raises SecretUnreadable."""
        try:
            data = base64.b64decode(sealed.removeprefix(SEAL_VERSION), validate=True)
        except ValueError:
            data = b""
        for key in self._keys:
            try:
                return key.cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], context.encode()).decode()
            except (InvalidTag, ValueError):
                continue
        raise SecretUnreadable(f"KTQ_SECRET_KEY: no key opens the secret of {context}; was its key taken away?")

    def default_secret(self, tenant: str = DEFAULT_TENANT) -> str:
        """What the webhooks of a tenant's jobs are signed with, as ``whsec_…``."""
        return self._keys[0].default_secret(tenant)

    def default_secrets(self, tenant: str = DEFAULT_TENANT) -> list[str]:
        """The same, and those of the keys before, which receivers may still hold."""
        return [key.default_secret(tenant) for key in self._keys]

    def signatures(self, event_id: str, timestamp: int, body: bytes, secrets: Iterable[str]) -> str:
        """The value of ``webhook-signature``: one v1 for each ``whsec_…`` secret, one v1a for each of our keys."""
        content = _signed_content(event_id, str(timestamp), body)
        symmetric = [f"v1,{_hmac(secret, content)}" for secret in secrets]
        return " ".join(symmetric + [f"v1a,{_base64(key.signer.sign(content))}" for key in self._keys])

    def public_keys(self) -> list[dict[str, str]]:
        """What verifies v1a, the current one first: a JWK each (RFC 8037), in ``whpk`` as Standard Webhooks has it."""
        return [_jwk(key.signer.public_key().public_bytes_raw()) for key in self._keys]


def verify(
    headers: Mapping[str, str], body: bytes, *, secrets: Iterable[str], public_keys: Iterable[str] = (), now: float
) -> None:
    """Pass if a request is signed with one of ``secrets`` (``whsec_…``) or by one of ``public_keys`` (``whpk_…``).

    ``now``: Unix seconds. Raises NotVerified.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    try:
        event_id, timestamp = lowered["webhook-id"], lowered["webhook-timestamp"]
        given = [signature.partition(",")[::2] for signature in lowered["webhook-signature"].split()]
    except KeyError as error:
        raise NotVerified(f"the request has no header {error.args[0]}") from None
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise NotVerified("webhook-timestamp must be Unix seconds")
    if abs(now - int(timestamp)) > TOLERANCE_S:
        raise NotVerified(f"webhook-timestamp is more than {TOLERANCE_S} s away from now")
    content = _signed_content(event_id, timestamp, body)
    symmetric = [signature.encode() for version, signature in given if version == "v1"]
    expected = [_hmac(secret, content).encode() for secret in secrets]
    if any(hmac.compare_digest(one, other) for one in symmetric for other in expected):
        return
    asymmetric = [signature for version, signature in given if version == "v1a"]
    if not any(_signed_by(key, signature, content) for key in public_keys for signature in asymmetric):
        raise NotVerified("no signature of webhook-signature fits")


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigurationError("KTQ_SECRET_KEY: must be keys separated by commas, each of them base64 of 32 bytes")
    return key


def _derived(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"ktqueue: " + purpose).derive(key)


def _signed_content(event_id: str, timestamp: str, body: bytes) -> bytes:
    return f"{event_id}.{timestamp}.".encode() + body


def _hmac(secret: str, content: bytes) -> str:
    return _base64(hmac.digest(base64.b64decode(secret.removeprefix(SECRET_PREFIX)), content, "sha256"))


def _signed_by(public_key: str, signature: str, content: bytes) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key.removeprefix(PUBLIC_PREFIX)))
        key.verify(base64.b64decode(signature), content)
    except (InvalidSignature, ValueError):
        return False
    return True


def _jwk(public: bytes) -> dict[str, str]:
    essence = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(public)}
    thumbprint = sha256(json.dumps(essence, separators=(",", ":"), sort_keys=True).encode()).digest()  # RFC 7638
    return {
        **essence,
        "alg": "EdDSA",
        "use": "sig",
        "kid": _base64url(thumbprint),
        "whpk": PUBLIC_PREFIX + _base64(public),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
