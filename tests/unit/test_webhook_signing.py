"""Signatures that the clients people have can verify, and secrets that only our keys open."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable

import openai
import pytest
import replicate
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from replicate.webhook import WebhookSigningSecret
from standardwebhooks import Webhook

from ktqueue.errors import ConfigurationError, NotVerified, SecretUnreadable
from ktqueue.webhook_signing import Keyring, new_key, new_secret, verify

EVENT = "evt_0190a8e66e5c7d1e9c3b2a1f00000000_1001000"
BODY = json.dumps({"id": EVENT, "type": "job.succeeded", "data": {"text": "grüße \U0001f30d"}}).encode()
KEY, OLD_KEY = new_key(), new_key()
SECRET, OLD_SECRET = new_secret(), new_secret()

Check = Callable[[dict[str, str], bytes, str], object]


def by_standardwebhooks(headers: dict[str, str], body: bytes, secret: str) -> object:
    return Webhook(secret).verify(body, headers)


def by_openai(headers: dict[str, str], body: bytes, secret: str) -> object:
    client = openai.OpenAI(api_key="none", webhook_secret=secret)
    client.webhooks.verify_signature(body, headers)
    return client.webhooks.unwrap(body, headers)


def by_replicate(headers: dict[str, str], body: bytes, secret: str) -> object:
    return replicate.webhooks.validate(
        headers=headers, body=body.decode(), secret=WebhookSigningSecret(key=secret), tolerance=300
    )


def by_ourselves(headers: dict[str, str], body: bytes, secret: str) -> None:
    verify(headers, body, secrets=[secret], now=time.time())


CHECKS = [by_standardwebhooks, by_openai, by_replicate, by_ourselves]


def signed(*secrets: str, keys: str = KEY, timestamp: int | None = None) -> dict[str, str]:
    at = int(time.time()) if timestamp is None else timestamp
    return {
        "Webhook-Id": EVENT,
        "Webhook-Timestamp": str(at),
        "Webhook-Signature": Keyring(keys).signatures(EVENT, at, BODY, secrets),
    }


def turned_round(headers: dict[str, str]) -> dict[str, str]:
    given = headers["Webhook-Signature"].split(" ")
    return headers | {"Webhook-Signature": " ".join(reversed(given))}


@pytest.mark.parametrize("check", CHECKS)
def test_every_client_verifies_it_in_either_order(check: Check) -> None:
    headers = signed(SECRET)

    assert re.fullmatch(r"v1,[\w+/]{43}= v1a,[\w+/]{86}==", headers["Webhook-Signature"])
    check(headers, BODY, SECRET)
    check(turned_round(headers), BODY, SECRET)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET], ids=["new", "old"])
def test_while_a_secret_is_rotated_the_old_one_verifies_as_well(check: Check, secret: str) -> None:
    headers = signed(SECRET, OLD_SECRET, keys=f"{KEY},{OLD_KEY}")

    check(headers, BODY, secret)
    check(turned_round(headers), BODY, secret)


@pytest.mark.parametrize("check", CHECKS)
def test_no_client_takes_what_was_changed(check: Check) -> None:
    headers = signed(SECRET)
    changed: list[tuple[dict[str, str], bytes, str]] = [
        (headers, BODY.replace(b"succeeded", b"cancelled"), SECRET),
        (headers, BODY + b" ", SECRET),
        (headers, BODY, OLD_SECRET),
        (headers | {"Webhook-Id": EVENT + "0"}, BODY, SECRET),
        (headers | {"Webhook-Timestamp": str(int(headers["Webhook-Timestamp"]) - 1)}, BODY, SECRET),
        (signed(SECRET, timestamp=int(time.time()) - 3_600), BODY, SECRET),
        ({name: value for name, value in headers.items() if name != "Webhook-Signature"}, BODY, SECRET),
    ]

    for case in changed:
        with pytest.raises(Exception, match=r"(?i)signature|timestamp|header|verif"):
            check(*case)


@pytest.mark.parametrize("check", CHECKS)
def test_the_default_secret_is_one_that_clients_read(check: Check) -> None:
    ring = Keyring(f"{KEY},{OLD_KEY}")
    headers = signed(*ring.default_secrets(), keys=f"{KEY},{OLD_KEY}")

    assert ring.default_secrets() == [ring.default_secret(), Keyring(OLD_KEY).default_secret()]
    check(headers, BODY, ring.default_secret())
    check(headers, BODY, Keyring(OLD_KEY).default_secret())


def test_secrets_are_in_standard_base64() -> None:
    for secret in [new_secret() for _ in range(64)] + [Keyring(KEY).default_secret()]:
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
        assert secret.count("_") == 1


def test_public_keys_verify_v1a_by_themselves() -> None:
    ring = Keyring(f"{KEY},{OLD_KEY}")
    current, before = ring.public_keys()
    headers = signed(keys=f"{KEY},{OLD_KEY}")

    for key in (current, before):
        verify(headers, BODY, secrets=[], public_keys=[key["whpk"]], now=time.time())
    with pytest.raises(NotVerified, match="no signature"):
        verify(headers, BODY + b" ", secrets=[], public_keys=[current["whpk"]], now=time.time())
    with pytest.raises(NotVerified, match="no signature"):
        verify(
            headers, BODY, secrets=[SECRET], public_keys=Keyring(new_key()).public_keys()[0]["whpk"], now=time.time()
        )


def test_public_keys_are_jwks_that_say_the_same_in_each_form() -> None:
    (key,) = Keyring(KEY).public_keys()
    raw = base64.urlsafe_b64decode(key["x"] + "=")

    assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("OKP", "Ed25519", "EdDSA", "sig")
    assert base64.b64decode(key["whpk"].removeprefix("whpk_"), validate=True) == raw
    assert Ed25519PublicKey.from_public_bytes(raw).public_bytes_raw() == raw
    assert key == Keyring(KEY).public_keys()[0]
    assert key["kid"] != Keyring(OLD_KEY).public_keys()[0]["kid"]


def test_a_key_id_is_the_thumbprint_of_its_key() -> None:
    from ktqueue.webhook_signing import _jwk

    # RFC 8037, appendix A.3.
    public = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")

    assert _jwk(public)["kid"] == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize(
    "change",
    [
        {"Webhook-Timestamp": "soon"},
        {"Webhook-Timestamp": "-1"},
        {"Webhook-Timestamp": "1e9"},
        {"Webhook-Timestamp": "9" * 5_000},
        {"Webhook-Timestamp": "\u0661\u0662"},
        {"Webhook-Signature": ""},
        {"Webhook-Signature": "v1"},
        {"Webhook-Signature": "v1,"},
        {"Webhook-Signature": "v1,\u00e9 v1a,\u00e9 , ,, v1a,!!! v2,x"},
        {"Webhook-Signature": "v1a," + "A" * 86 + "=="},
    ],
)
def test_nonsense_is_not_verified(change: dict[str, str]) -> None:
    with pytest.raises(NotVerified):
        verify(signed(SECRET) | change, BODY, secrets=[SECRET], public_keys=["whpk_x", "whpk_"], now=time.time())


def test_a_request_is_believed_for_five_minutes_either_way() -> None:
    headers = signed(SECRET, timestamp=1_000_000)

    for now in (1_000_300, 999_700):
        verify(headers, BODY, secrets=[SECRET], now=now)
    for now in (1_000_301, 999_699):
        with pytest.raises(NotVerified, match="away from now"):
            verify(headers, BODY, secrets=[SECRET], now=now)


@given(st.text(), st.text(min_size=1))
def test_a_sealed_secret_opens_for_its_owner_alone(text: str, owner: str) -> None:
    ring = Keyring(KEY)
    sealed = ring.seal(text, owner)

    assert ring.open(sealed, owner) == text
    assert ring.seal(text, owner) != sealed
    with pytest.raises(SecretUnreadable):
        ring.open(sealed, owner + "x")


def test_a_sealed_secret_outlives_its_key_while_that_key_is_listed() -> None:
    sealed = Keyring(OLD_KEY).seal(SECRET, "whe_1")

    assert Keyring(f"{KEY}, {OLD_KEY}").open(sealed, "whe_1") == SECRET
    with pytest.raises(SecretUnreadable, match="KTQ_SECRET_KEY: no key opens the secret of whe_1"):
        Keyring(KEY).open(sealed, "whe_1")


@pytest.mark.parametrize("spoilt", ["", "s1:", "s1:AAAA", "s1:\u00e9", "s1:!", "s1:" + "A" * 64])
def test_a_spoilt_secret_does_not_open(spoilt: str) -> None:
    with pytest.raises(SecretUnreadable):
        Keyring(KEY).open(spoilt, "whe_1")


@pytest.mark.parametrize(
    "text",
    ["hunter2", "hunter2=,", f"{KEY},hunter2", new_key()[:-8], f"{KEY}{OLD_KEY}"],
    ids=["none", "none, and nothing", "a key, and none", "too short", "two in one"],
)
def test_a_wrong_key_is_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError, match="each of them base64 of 32 bytes") as refused:
        Keyring(text)

    assert "hunter2" not in str(refused.value)
    assert KEY not in str(refused.value)


def test_a_keyring_shows_no_key() -> None:
    ring = Keyring(KEY)

    assert repr(ring) == "<Keyring of 1>"
    assert KEY not in repr(ring._keys)
    assert ring.default_secret() not in repr(ring._keys)
