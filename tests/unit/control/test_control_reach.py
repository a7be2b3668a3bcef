"""Where the server goes for a URL that somebody else chose."""

from __future__ import annotations

import ipaddress

import pytest

from freehold.control.reach import PUBLIC_INTERNET, Reach, Refused

PRIVATE = [
    *("127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "fe80::1", "fd00::1", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::a00:1"),
    *("2002:7f00:1::", "2002:a9fe:a9fe::1"),
]
PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
OWN = Reach((ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")), allow_http=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_outside_of_the_public_internet_is_not_reached_however_it_is_written(address: str):
    assert not PUBLIC_INTERNET.allows(ipaddress.ip_address(address), scheme="https")


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_reached(address: str):
    assert PUBLIC_INTERNET.allows(ipaddress.ip_address(address), scheme="https")


@pytest.mark.parametrize("address", ["10.1.2.3", "::1", "::ffff:10.1.2.3", "64:ff9b::a00:1"])
def test_a_private_network_is_reached_when_a_setting_says_so(address: str):
    assert OWN.allows(ipaddress.ip_address(address), scheme="https")
    assert OWN.allows(ipaddress.ip_address(address), scheme="http")


def test_plain_http_stays_inside_of_private_networks():
    assert not OWN.allows(ipaddress.ip_address("8.8.8.8"), scheme="http")
    assert not OWN.allows(ipaddress.ip_address("127.0.0.1"), scheme="http")


@pytest.mark.parametrize(
    "url",
    [
        *("http://id.example/x", "ftp://id.example/x", "file:///etc/passwd", "//id.example/x", "id.example/x", ""),
        *("https://", "https:///x", "https://./x", "https://user@id.example/x", "https://user:word@id.example/x"),
        *("https://id.example:0/x", "https://id.example:65536/x", "https://id.example:port/x", "https://[::1/x"),
        *("https://127.0.0.1/x", "https://[::1]/x", "https://[::ffff:10.0.0.1]:8443/x", "https://169.254.169.254/"),
        *(
            "https://id.example/a b",
            "https://id.example/\r\nX: y",
            "https://id.example\\@evil.example/",
            "https://ïd.example/x",
        ),
    ],
)
def test_a_url_that_is_never_followed_is_refused(url: str):
    with pytest.raises(Refused):
        PUBLIC_INTERNET.origin(url)


def test_a_url_says_whom_to_ask_and_as_what():
    origin = PUBLIC_INTERNET.origin("https://ID.example./x?y=z")
    assert (origin.host, origin.port, origin.authority) == ("id.example", 443, "id.example")
    assert PUBLIC_INTERNET.origin("https://id.example:8443/x").authority == "id.example:8443"
    assert OWN.origin("https://[::1]/x").authority == "[::1]"
    assert OWN.origin("http://10.0.0.1:80/x").authority == "10.0.0.1"


def test_a_host_with_a_place_of_its_own_may_have_any_address():
    assert PUBLIC_INTERNET.origin("https://10.0.0.1/x", has_place=True).host == "10.0.0.1"
    with pytest.raises(Refused, match="allow_http"):
        PUBLIC_INTERNET.origin("http://10.0.0.1/x", has_place=True)


def test_a_refusal_names_the_setting_that_would_let_it():
    with pytest.raises(Refused, match=r"jwt\.private_networks"):
        PUBLIC_INTERNET.origin("https://10.0.0.1/x")
    with pytest.raises(Refused, match=r"jwt\.allow_http"):
        PUBLIC_INTERNET.origin("http://id.example/x")
