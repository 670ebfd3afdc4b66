"""Which `Host` headers and targets mean this machine."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.address import host_of, is_loopback, names_this_machine

GOOD = (
    *("localhost", "LOCALHOST", "LocalHost:8080", "localhost:", "localhost:0", "localhost:65535"),
    *("127.0.0.1", "127.0.0.1:1", "127.8.9.1", "127.255.255.254:80"),
    *("[::1]", "[::1]:8080", "[0:0:0:0:0:0:0:1]", "[0000:0000:0000:0000:0000:0000:0000:0001]:1"),
)
BAD = (
    *("", " ", ":", ":8080", "*", "evil.example", "evil.example:8080", "192.168.0.7", "0.0.0.0"),
    *("dns:///localhost", "dns:///127.0.0.1", "dns:localhost", "http://localhost", "//localhost"),
    *("]localhost[", "[localhost]", "[localhost", "localhost]", "[127.0.0.1]", "[[::1]]", "]::1["),
    *("::1", "::1:8080", "[::1", "::1]", "[::1]8080", "[::1%lo]", "[::1%25lo]", "[v1.::1]", "[::]"),
    *("[::ffff:127.0.0.1]", "[::127.0.0.1]", "[::2]", "[fe80::1]", "[]", "[]:80"),
    *("localhost:80@evil.example", "user@localhost", "user:pw@localhost:80", "@localhost"),
    *("localhost/", "localhost/path", "localhost?x", "localhost#x", "localhost:80/", "localhost\\"),
    *("localhost:x", "localhost:-1", "localhost:+1", "localhost: 1", "localhost:1:1"),
    *("localhost:65536", "localhost:99999", "localhost:000080", "localhost:\u0661", "localhost::"),
    *("localhost.", "localhost.evil.example", "127.0.0.1.evil.example", "evil.localhost"),
    *("127.1", "127.0.0.1.", "0177.0.0.1", "0x7f.0.0.1", "2130706433", "127.0.0.01", "127.0.0.256"),
    *(
        "%6cocalhost",
        "localhost%00",
        "local\u212aost",
        "\u24db\u24de\u24d2alhost",
        "\uff1127.0.0.1",
    ),
    *(" localhost", "localhost ", "localhost\t", "localhost\r\n", "localhost\0", "local host"),
    *("localhost,localhost", "localhost, evil.example", "localhost;evil", "xn--localhost"),
)


@pytest.mark.parametrize("authority", GOOD)
def test_names_of_this_machine(authority: str) -> None:
    assert names_this_machine(authority)


@pytest.mark.parametrize("authority", BAD)
def test_names_of_anything_else(authority: str) -> None:
    assert not names_this_machine(authority)


PIECES = st.sampled_from(
    [
        *("localhost", "LOCALhost", "127.0.0.1", "::1", "[", "]", ":", "80", "@", "/", "dns:///"),
        *("%", "evil.example", ".", " ", "\0", "user", "?", "#", "\\", "1", "0", "٣", "\xa0", ","),
    ]
)


@given(st.one_of(st.text(max_size=30), st.lists(PIECES, max_size=7).map("".join)))
def test_nothing_else_is_taken_for_this_machine(text: str) -> None:
    """Checked by another way: a plain pattern of all that is allowed."""
    host, port = re.fullmatch(r"(.*?)(?::([0-9]*))?", text, re.DOTALL).groups()  # type: ignore[union-attr]
    allowed = host.isascii() and host.lower() == "localhost"
    if not allowed and re.fullmatch(r"\[[0-9a-fA-F:.]+\]", host):
        try:
            allowed = int(ipaddress.IPv6Address(host[1:-1])) == 1
        except ValueError:
            allowed = False
    if not allowed:
        octets = host.split(".")
        plain = all(re.fullmatch("0|[1-9][0-9]{0,2}", each) for each in octets)
        allowed = len(octets) == 4 and plain and octets[0] == "127" and max(map(int, octets)) < 256
    allowed = allowed and len(port or "") <= 5 and int(port or 0) < 65_536
    assert names_this_machine(text) == allowed


@given(st.text(max_size=30))
def test_a_target_is_on_this_machine_only_where_its_host_is(target: str) -> None:
    host = host_of(target)
    assert host in target
    if is_loopback(host):
        assert re.fullmatch(r"(dns:///)?\[?[0-9A-Za-z.:]+\]?(:[0-9]*)?", target)


@pytest.mark.parametrize(
    "target", ["dns:///]localhost[:1", "]localhost[", "localhost:1@evil", "dns:///[localhost]:1"]
)
def test_targets_that_only_look_like_this_machine(target: str) -> None:
    assert not is_loopback(host_of(target))
