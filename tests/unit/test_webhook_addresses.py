"""Which URLs and which addresses webhooks may go to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktqueue.errors import ConfigurationError, Invalid
from ktqueue.webhook_addresses import AddressRules, destination, is_public, origin

PORTS = "80,443,8080,8443"
STRICT = AddressRules("", PORTS)

GOOD = [
    ("https://example.com/hook", "https://example.com:443", "example.com", "/hook"),
    ("http://example.com", "http://example.com:80", "example.com", "/"),
    ("HTTPS://Example.COM/Hook", "https://example.com:443", "example.com", "/Hook"),
    ("https://example.com:443/", "https://example.com:443", "example.com", "/"),
    ("https://example.com:8443/a/b?c=d&e=%20f", "https://example.com:8443", "example.com:8443", "/a/b?c=d&e=%20f"),
    ("https://example.com?x=1", "https://example.com:443", "example.com", "/?x=1"),
    ("http://example.com:443/", "http://example.com:443", "example.com:443", "/"),
    ("https://a.b-c.example.co.uk/~x/;y=z", "https://a.b-c.example.co.uk:443", "a.b-c.example.co.uk", "/~x/;y=z"),
    ("https://under_score.example.com/", "https://under_score.example.com:443", "under_score.example.com", "/"),
    ("https://b\u00fccher.example.com/", "https://xn--bcher-kva.example.com:443", "xn--bcher-kva.example.com", "/"),
    ("https://xn--bcher-kva.example.com/", "https://xn--bcher-kva.example.com:443", "xn--bcher-kva.example.com", "/"),
    ("https://8.8.8.8/", "https://8.8.8.8:443", "8.8.8.8", "/"),
    (
        "https://[2606:4700:4700:0::1111]:8443/",
        "https://[2606:4700:4700::1111]:8443",
        "[2606:4700:4700::1111]:8443",
        "/",
    ),
    ("https://example.com/user@host:80//http://127.0.0.1/", "https://example.com:443", "example.com", None),
    ("https://1.example.com/", "https://1.example.com:443", "1.example.com", "/"),
    ("https://localhost.example.com/", "https://localhost.example.com:443", "localhost.example.com", "/"),
    (f"https://example.com/{'a' * 2028}", "https://example.com:443", "example.com", None),
]

HOSTILE = [
    # Not http, or not clearly so.
    *("", "/", "example.com", "//example.com/", "http:", "http:/example.com/", "http:example.com", "http:///path"),
    *("ftp://example.com/", "file:///etc/passwd", "gopher://example.com:80/_x", "javascript://example.com/%0aalert(1)"),
    *(
        "data:text/plain,x",
        "unix:///run/docker.sock",
        "ws://example.com/",
        "httpx://example.com/",
        "jar:http://example.com/",
    ),
    *("https://", "https://:443/", "https://?x", "https://#x", "view-source:https://example.com/"),
    # Users, fragments, and what parsers disagree on.
    *("http://user@example.com/", "http://user:password@example.com/", "http://@example.com/", "http://:@example.com/"),
    *("http://example.com@127.0.0.1/", "http://127.0.0.1@example.com/", "http://example.com:80@127.0.0.1:80/"),
    *("https://example.com/#fragment", "https://example.com#@127.0.0.1/", "https://127.0.0.1#.example.com/"),
    *(
        "http://example.com\\@127.0.0.1/",
        "http:\\\\127.0.0.1\\",
        "http://127.0.0.1\\.example.com/",
        "http://example.com/\\x",
    ),
    *(
        " http://example.com/",
        "http://example.com/ ",
        "http://example.com /",
        "http://exa mple.com/",
        "http://example.com/a b",
    ),
    *(
        "http://example.com/\r\nhost: 127.0.0.1",
        "http://example.com\r\n/",
        "http://exam\tple.com/",
        "http://example.com/\x00",
    ),
    *("http://example.com\x7f/", "http://example.com/\u2028", "http://example.com\u00a0/", "\x00http://example.com/"),
    *("http://example.com/\u00e9", "http://example.com/?\uff0f", "http://example.com\uff0f@127.0.0.1/"),
    # Ports.
    *("http://example.com:22/", "http://example.com:6379/", "http://example.com:0/", "http://example.com:65536/"),
    *("http://example.com:/", "http://example.com:080/", "http://example.com:-80/", "http://example.com:+80/"),
    *(
        "http://example.com:80:80/",
        "http://example.com:8o/",
        "http://example.com:\u0668\u0660/",
        "http://example.com:99999/",
    ),
    # Loopback and its disguises.
    *(
        "http://127.0.0.1/",
        "http://127.8.9.10/",
        "http://127.1/",
        "http://127.0.1/",
        "http://2130706433/",
        "http://0x7f000001/",
    ),
    *("http://0x7F.0.0.1/", "http://127.0.0.0x1/", "http://017700000001/", "http://0177.0.0.1/", "http://127.0.0.01/"),
    *(
        "http://127.0.0.1./",
        "http://0/",
        "http://0.0.0.0/",
        "http://00000000/",
        "http://127.0.0.1.0x/",
        "http://1.2.3.4.5/",
    ),
    *(
        "http://256.1.1.1/",
        "http://4294967297/",
        "http://127%2e0%2e0%2e1/",
        "http://%31%32%37.0.0.1/",
        "http://127.0.0.1%00/",
    ),
    *(
        "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://127\u30020\u30020\u30021/",
    ),
    *(
        "http://localhost/",
        "http://LOCALHOST/",
        "http://localhost./",
        "http://a.localhost/",
        "http://localhost.localdomain/",
    ),
    *(
        "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/",
        "http://local\u00adhost/",
        "http://loc\u200balhost/",
    ),
    *("http://\u017flocalhost/", "http://example.com%2f@127.0.0.1/", "http://%6cocalhost/"),
    # Other networks inside.
    *(
        "http://10.0.0.1/",
        "http://10.255.255.255/",
        "http://172.16.0.1/",
        "http://172.31.255.255/",
        "http://192.168.1.1/",
    ),
    *(
        "http://169.254.169.254/latest/meta-data/",
        "http://0xa9fea9fe/",
        "http://2852039166/",
        "http://0251.0376.0251.0376/",
    ),
    *(
        "http://100.64.0.1/",
        "http://100.100.100.200/",
        "http://192.0.0.192/",
        "http://192.0.2.1/",
        "http://198.18.0.1/",
    ),
    *("http://198.51.100.1/", "http://203.0.113.1/", "http://192.88.99.1/", "http://168.63.129.16/"),
    *("http://224.0.0.1/", "http://239.255.255.255/", "http://240.0.0.1/", "http://255.255.255.255/"),
    *(
        "http://redis/",
        "http://kubernetes/",
        "http://metadata.google.internal/",
        "http://printer.local/",
        "http://nas.lan/",
    ),
    *(
        "http://kubernetes.default.svc.cluster.local/",
        "http://router.home.arpa/",
        "http://db.corp/",
        "http://wiki.intranet/",
    ),
    # IPv6.
    *("http://[::1]/", "http://[::]/", "http://[0:0:0:0:0:0:0:1]/", "http://[0000::0001]/", "http://[::127.0.0.1]/"),
    *(
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::ffff:8.8.8.8]/",
        "http://[::ffff:0:127.0.0.1]/",
    ),
    *("http://[64:ff9b::127.0.0.1]/", "http://[64:ff9b::a9fe:a9fe]/", "http://[64:ff9b:1::a00:1]/", "http://[100::1]/"),
    *("http://[2002:7f00:1::]/", "http://[2002:a9fe:a9fe::1]/", "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/"),
    *(
        "http://[fc00::1]/",
        "http://[fd00:ec2::254]/",
        "http://[fe80::1]/",
        "http://[fe80::1%eth0]/",
        "http://[fe80::1%25eth0]/",
    ),
    *("http://[fec0::1]/", "http://[ff02::1]/", "http://[2001:db8::1]/", "http://[3fff::1]/", "http://[5f00::1]/"),
    *(
        "http://[2606:4700:4700::1111%lo]/",
        "http://[::1",
        "http://::1/",
        "http://[::1]x/",
        "http://x[::1]/",
        "http://[]/",
    ),
    *(
        "http://[127.0.0.1]/",
        "http://[localhost]/",
        "http://[v1.x]/",
        "http://[::1]:22/",
        "http://[[::1]]/",
        "http://::1:80/",
    ),
    # Names that are none.
    *(
        "http://./",
        "http://../",
        "http://example..com/",
        "http://.example.com/",
        "http://example.com./",
        "http://-a.com/",
    ),
    *(
        "http://a-.com/",
        "http://*.example.com/",
        "http://exa$mple.com/",
        "http://example.com,127.0.0.1/",
        "http://a;b.com/",
    ),
    *(
        f"http://{'a' * 64}.com/",
        f"http://{'a.' * 127}com/",
        f"https://example.com/{'a' * 2029}",
        "http://xn--.\u00fc-.com/",
    ),
    *(
        "http://\U0001f4a9.example.com/",
        "http://exam\u202eple.com/",
        "http://'example.com'/",
        "http://$(id).example.com/",
    ),
]


@pytest.mark.parametrize(("url", "of", "host", "path"), GOOD)
def test_a_public_url_is_taken_apart(url: str, of: str, host: str, path: str | None) -> None:
    to = STRICT.check_url(url)

    assert (to.origin, to.host_header) == (of, host)
    assert url.endswith(to.path) if path is None else to.path == path
    assert origin(url) == of


@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_url_is_refused_and_told_what_is_allowed(url: str) -> None:
    with pytest.raises(Invalid, match=r"^must (begin|have|hold|name) ") as refused:
        STRICT.check_url(url, field="webhook.url")

    assert refused.value.field == "webhook.url"


def test_there_are_plenty_of_those() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) >= 60


@given(st.text(max_size=40))
def test_no_text_brings_it_down(text: str) -> None:
    for url in (text, f"http://{text}/", f"http://{text}", f"https://example.com:{text}/", f"http://[{text}]/"):
        try:
            to = STRICT.check_url(url)
        except Invalid:
            continue
        assert to.origin.isascii()
        assert to.path.isascii()
        assert to.address is None or is_public(to.address)
        assert origin(to.origin) == to.origin


@given(st.ip_addresses())
def test_an_address_in_a_url_is_judged_like_one_from_a_name_server(address: IPv4Address | IPv6Address) -> None:
    named = destination("http://example.com/")
    host = f"[{address}]" if address.version == 6 else str(address)
    try:
        STRICT.check_url(f"http://{host}/")
        taken = True
    except Invalid:
        taken = False

    assert taken == is_public(address) == STRICT.permits(named, [address])


@given(st.ip_addresses(v=4))
def test_what_is_public_is_what_python_thinks_or_less(address: IPv4Address) -> None:
    assert not is_public(address) or address.is_global


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_in_an_ipv6_address_is_never_public(address: IPv4Address) -> None:
    number = int(address)
    embedded = [number, 0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x64FF9B0001 << 80 | number]
    embedded += [0x2002 << 112 | number << 80, 0x20010000 << 96 | number << 64 | (number ^ 0xFFFFFFFF)]

    assert not any(is_public(IPv6Address(form)) for form in embedded)


PRIVATE = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "::1", "fe80::1%eth0", "fd00::1", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("private", PRIVATE)
def test_one_private_address_spoils_the_others(private: str) -> None:
    to = STRICT.check_url("https://example.com/")
    public = [ip_address("8.8.8.8"), ip_address("2606:4700:4700::1111")]

    assert STRICT.permits(to, public)
    assert not STRICT.permits(to, [*public, ip_address(private)])
    assert not STRICT.permits(to, [ip_address(private), *public])


@pytest.mark.parametrize(
    ("allow", "url"),
    [
        ("localhost", "http://localhost:9999/"),
        ("Receiver", "http://receiver:6000/"),
        ("localhost:9999", "http://localhost:9999/"),
        ("example.com:22", "https://example.com:22/"),
        ("127.0.0.1", "http://127.0.0.1:9999/"),
        ("127.0.0.0/8:9999", "http://127.1.2.3:9999/"),
        ("10.0.0.0/8, 127.0.0.1:9999 ,", "http://127.0.0.1:9999/"),
        ("::1", "http://[::1]:9999/"),
        ("[::1]:9999", "http://[0::1]:9999/"),
        ("fd00::/8", "http://[fd12::1]/"),
        ("[fd00::/8]:80", "http://[fd12::1]/"),
    ],
)
def test_what_an_operator_trusts_may_be_called_on_any_port_or_on_its_own(allow: str, url: str) -> None:
    rules = AddressRules(allow, PORTS)
    to = rules.check_url(url)

    assert rules.permits(to, [to.address or ip_address("127.0.0.1")])
    with pytest.raises(Invalid):
        STRICT.check_url(url)


@pytest.mark.parametrize(
    ("allow", "url"),
    [
        ("localhost:9999", "http://localhost:9998/"),
        ("localhost:9999", "http://localhost/"),
        ("localhost", "http://a.localhost/"),
        ("127.0.0.1", "http://localhost/"),
        ("127.0.0.1", "http://127.0.0.2/"),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]/"),
        ("127.0.0.0/8:9999", "http://127.0.0.1:8080/"),
        ("10.0.0.0/8", "http://192.168.0.1/"),
        ("::1", "http://127.0.0.1/"),
    ],
)
def test_trust_reaches_no_further_than_its_words(allow: str, url: str) -> None:
    with pytest.raises(Invalid):
        AddressRules(allow, PORTS).check_url(url)


def test_a_trusted_network_is_open_to_names_on_allowed_ports() -> None:
    rules = AddressRules("10.0.0.0/8", PORTS)
    to = rules.check_url("https://hooks.example.com/")

    assert rules.permits(to, [ip_address("10.1.2.3"), ip_address("8.8.8.8")])
    assert not rules.permits(to, [ip_address("10.1.2.3"), ip_address("127.0.0.1")])


def test_a_port_that_is_no_longer_allowed_is_closed_for_what_was_stored_before() -> None:
    to = STRICT.check_url("https://example.com:8443/")

    assert not AddressRules("", "443").permits(to, [ip_address("8.8.8.8")])


def test_without_ports_only_what_is_trusted_is_left() -> None:
    rules = AddressRules("example.org", "")

    assert rules.check_url("https://example.org/").host == "example.org"
    with pytest.raises(Invalid, match=r"allowed \(none\)"):
        rules.check_url("https://example.com/")


@pytest.mark.parametrize(
    "allow",
    ["*", "*.example.com", "http://x", "a b", "10.0.0.1/8", "127.1", "[::1", "x:0", "x:port", "x:", "::1::", "a/8"],
)
def test_trust_that_can_not_be_read_is_refused(allow: str) -> None:
    with pytest.raises(ConfigurationError, match="write "):
        AddressRules(allow, PORTS)


@pytest.mark.parametrize("ports", ["http", "0", "65536", "80-90", "80 443", "-1", "080"])
def test_ports_that_are_none_are_refused(ports: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a port: write "):
        AddressRules("", ports)
