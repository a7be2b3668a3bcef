"""Where requests come from: the address by which strangers are told apart.

Not for who calls (`callers`): an address proves nothing, and nothing is allowed because of one. Invariant: what a
client itself says of its address counts only as far as trusted proxies have passed it on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from freehold.gateway.heads import Headers

UNKNOWN: Final = "unknown"
_V6_PREFIX: Final = 64
"""One network of this size is one source: a client has all of its addresses."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Sources:
    """Names the source of a request, given the networks of the proxies in front."""

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        """Raises ValueError for what is no network."""
        self._trusted = tuple(ipaddress.ip_network(network, strict=False) for network in trusted_proxies)

    def of(self, peer: str, headers: Headers) -> str:
        """The last address on the request's way that is not a trusted proxy's."""
        at = _address(peer)
        if at is None or not self._is_trusted(at):
            return _name(at)
        said = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        for part in reversed(said.decode("latin-1").split(",")):
            before = _address(part.strip())
            if before is None:
                break
            at = before
            if not self._is_trusted(at):
                break
        return _name(at)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _address(text: str) -> Address | None:
    """An address, with or without a port."""
    if text[:1] == "[":
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def _name(address: Address | None) -> str:
    if address is None:
        return UNKNOWN
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, _V6_PREFIX), strict=False))
