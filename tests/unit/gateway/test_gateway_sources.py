"""Where a request comes from: what proxies say counts as far as they are trusted."""

from __future__ import annotations

import pytest

from freehold.gateway.sources import Sources


def source(peer: str, *forwarded: str, trusted: tuple[str, ...] = ("10.0.0.0/8", "::1")) -> str:
    headers = [(b"host", b"x"), *((b"x-forwarded-for", value.encode()) for value in forwarded)]
    return Sources(trusted).of(peer, headers)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["198.51.100.7"], "198.51.100.7"),
        ("10.1.2.3", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("10.1.2.3", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
        ("10.1.2.3", ["198.51.100.7, 10.9.9.9"], "198.51.100.7"),
        ("10.1.2.3", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.1.2.3", ["198.51.100.7, nonsense"], "10.1.2.3"),
        ("10.1.2.3", ["10.9.9.9"], "10.9.9.9"),
        ("::1", ["[2001:db8:1:2:3::4]:443"], "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", [], "2001:db8:1:2::/64"),
        ("::ffff:10.1.2.3", ["198.51.100.7"], "198.51.100.7"),
        ("", [], "unknown"),
    ],
)
def test_the_last_address_that_is_no_proxy_is_the_source(peer: str, forwarded: list[str], expected: str):
    assert source(peer, *forwarded) == expected


def test_without_trusted_proxies_nobody_is_believed():
    assert source("127.0.0.1", "198.51.100.7", trusted=()) == "127.0.0.1"
