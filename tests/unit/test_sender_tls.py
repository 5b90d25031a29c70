"""An attempt to deliver over TLS, with an authority of the test's own."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ktqueue.webhook import Answer
from tests.support.receivers import (
    OTHER,
    PUBLIC,
    TLS,
    Detour,
    Visit,
    names,
    post,
    receiving,
    sending,
    well,
)


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self._certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType, days: int = 1
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder(issuer_name=self._name, subject_name=name, public_key=key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical=True)
        builder = builder.not_valid_before(now - dt.timedelta(days=9)).not_valid_after(now + dt.timedelta(days=days))
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        if isinstance(extension, x509.BasicConstraints):
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(identifier, critical=False).add_extension(issuer, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def server(self, folder: Path, *names: x509.GeneralName, days: int = 1) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([]), key, x509.SubjectAlternativeName(names), days)
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        path = folder / "server.pem"
        path.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()) + certificate.public_bytes(pem))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self._certificate.public_bytes(serialization.Encoding.PEM).decode())


HOOKS = x509.DNSName("hooks.example.com")


def by_tls(server: ssl.SSLContext, client: ssl.SSLContext, url: str = "https://hooks.example.com/") -> list[Answer]:
    """Two attempts, one after the other."""

    async def run() -> list[Answer]:
        async with receiving(well, server) as receiver:
            resolve = names(hooks_example_com=[PUBLIC])
            async with sending("", resolve=resolve, connect=Detour(receiver.port), tls=client) as sender:
                answers = [await post(sender, url) for _ in range(2)]
            good = sum(answer.good for answer in answers)
            assert sum(len(visit.requests) for visit in receiver.visits) == good
            assert len([visit for visit in receiver.visits if visit.requests]) <= 1
            return answers

    return asyncio.run(run())


def test_tls_asks_for_and_checks_the_name_of_the_url(tmp_path: Path) -> None:
    authority = Authority()
    asked: list[str | None] = []
    server = authority.server(tmp_path, HOOKS)
    server.sni_callback = lambda _socket, name, _context: asked.append(name)

    assert [answer.status for answer in by_tls(server, authority.client())] == [200, 200]
    assert asked == ["hooks.example.com"]


def test_an_address_is_checked_against_addresses_in_the_certificate(tmp_path: Path) -> None:
    authority = Authority()
    server = authority.server(tmp_path, x509.IPAddress(ip_address(PUBLIC)))

    assert by_tls(server, authority.client(), f"https://{PUBLIC}/")[0].good
    assert by_tls(server, authority.client(), f"https://{OTHER}/")[0].error == "tls_failed"


@pytest.mark.parametrize(
    ("name", "days", "known"),
    [
        (x509.DNSName("other.example.com"), 1, True),
        (x509.DNSName("*.hooks.example.com"), 1, True),
        (x509.IPAddress(ip_address(PUBLIC)), 1, True),
        (HOOKS, -1, True),
        (HOOKS, 1, False),
    ],
)
def test_a_wrong_certificate_gets_no_request(tmp_path: Path, name: x509.GeneralName, days: int, known: bool) -> None:
    authority = Authority()
    server = authority.server(tmp_path, name, days=days)

    answers = by_tls(server, authority.client() if known else TLS)

    assert {(answer.status, answer.error) for answer in answers} == {(None, "tls_failed")}


def test_a_receiver_that_speaks_no_tls_gets_no_request() -> None:
    async def plain(visit: Visit) -> None:
        await visit.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def run() -> None:
        async with receiving(plain) as receiver:
            resolve = names(hooks_example_com=[PUBLIC])
            async with sending("", resolve=resolve, connect=Detour(receiver.port)) as sender:
                assert (await post(sender, "https://hooks.example.com/")).error == "tls_failed"

    asyncio.run(run())
