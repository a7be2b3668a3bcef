"""Where the server goes for a URL that a customer or an identity provider chose, and where it does not.

For: discovery documents and key sets. Pure: what a name resolves to is handed in. Not for fetching (`fetching`).
Invariant: without a setting of the operator's, only https and only addresses of the public internet are reached,
however they are written.

Source: design section 5; RFC 6890 (special-purpose addresses), 6052 and 3056 (IPv4 addresses inside IPv6 ones).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Place = tuple[str, int]
"""A host or an address, and a port."""
NOWHERE: Final[Place] = ("", 0)
"""The place of what an operator has not said, or no longer says, where it is."""

_ENDING_IN_IPV4: Final = tuple(map(ipaddress.IPv6Network, ("::/96", "64:ff9b::/96", "64:ff9b:1::/48")))
_LOOPBACK: Final[tuple[Address, ...]] = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))
_PORTS: Final = {"https": 443, "http": 80}


class Refused(Exception):
    """The server does not go there. The message says why, and what setting would let it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The part of a URL that says whom to connect to."""

    scheme: str
    host: str
    """Lower case; an IPv6 address without brackets."""
    port: int

    @property
    def authority(self) -> str:
        """As in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Reach:
    """The operator's settings (section `jwt`). The default is the public internet over https."""

    private_networks: tuple[Network, ...] = ()
    allow_http: bool = False
    private_endpoints: Mapping[str, Place] = field(default_factory=dict[str, Place])
    """VPC Lattice resource configurations, by id or ARN, and what stands for them here."""

    def origin(self, url: str, *, has_place: bool = False) -> Origin:
        """Whom a URL names. Raises Refused for one that is never followed.

        `has_place`: the operator has said where its host is reached (a private endpoint).
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise Refused("it is not a URL") from None
        if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
            raise Refused("it is not an https URL with a host")
        if parts.username is not None or parts.password is not None:
            raise Refused("it holds a user's name or password")
        if not url.isascii() or any(character <= " " or character in "\\\x7f" for character in url):
            raise Refused("it holds characters that a URL can't have")
        if parts.scheme == "http" and not self.allow_http:
            raise Refused("it is not https (the setting jwt.allow_http takes http inside private networks)")
        origin = Origin(parts.scheme, parts.hostname.rstrip("."), port or _PORTS[parts.scheme])
        if not origin.host:
            raise Refused("it is not an https URL with a host")
        written = _written(origin.host)
        if written and not has_place and not any(self.allows(each, scheme=origin.scheme) for each in written):
            raise self.refusal(written[0], scheme=origin.scheme)
        return origin

    def allows(self, address: Address, *, scheme: str) -> bool:
        """Whether an address that a name resolved to may be connected to."""
        meant = [address, *_inner(address)]
        private = any(inside in network for inside in meant for network in self.private_networks)
        if scheme == "http":
            # In the open nobody would know who answers.
            return private
        return private or all(map(_is_public, meant))

    def refusal(self, address: Address, *, scheme: str) -> Refused:
        """Why `allows` said no."""
        if scheme == "http" and address.is_global:
            return Refused("http is taken inside private networks only")
        return Refused(f"the address {address} is not a public one (the setting jwt.private_networks allows others)")


PUBLIC_INTERNET: Final = Reach()


def as_address(host: str) -> Address | None:
    """The address that is written, if it is one."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _written(host: str) -> list[Address]:
    """The addresses that a host is known to have without asking: its own, or those of `localhost`."""
    if host == "localhost" or host.endswith(".localhost"):
        return list(_LOOPBACK)
    literal = as_address(host)
    return [] if literal is None else [literal]


def _is_public(address: Address) -> bool:
    site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return address.is_global and not address.is_multicast and not site_local


def _inner(address: Address) -> list[Address]:
    """The IPv4 addresses that packets to an IPv6 address may end at."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[Address] = [inner for inner in (address.ipv4_mapped, address.sixtofour) if inner is not None]
    found += address.teredo or ()
    if any(address in network for network in _ENDING_IN_IPV4):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found
