"""The A2A contract: JSON-RPC by POST /, and an agent card. Source: spec sections 1.1, 1.6 and 1.8.

Failures are JSON-RPC errors with real statuses; a caller that may not is told so in no particular form.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, Final, cast
from urllib.parse import urlsplit

from freehold.gateway import errors
from freehold.gateway.contracts import json_rpc
from freehold.gateway.contracts.base import Rules, Told
from freehold.gateway.errors import Answer, WireError

CARD_PATHS: Final = (b"/.well-known/agent-card.json", b"/.well-known/agent.json")
"""Where an agent has its card: today's spelling, and that of before version 0.3 of the protocol."""

_VERSIONING: Final = frozenset({b"a2a-version", b"a2a-extensions", b"x-a2a-extensions"})
"""Servers of version 1.0 take a request without A2A-Version for one of version 0.3."""


def _render(error: WireError, told: Told, request_id: bytes | None) -> Answer:
    return errors.envelope(error) if told.code is None else json_rpc.render(error, told, request_id)


_OWN_HOSTS: Final = frozenset({"localhost", "0.0.0.0", "::", ""})  # noqa: S104 - names that are looked for


def make_reachable(card: dict[str, Any], url: str, *, port: int, path: str) -> bool:
    """Put `url` where `card` names its agent's own loopback, at the port and path of invocations. Whether it was there.

    A card that is signed stays as it is, and so do addresses of bindings other than JSON-RPC: nothing else is carried.
    """
    if card.get("signatures"):
        return False
    places = [card, *_entries(card, "additionalInterfaces"), *_entries(card, "supportedInterfaces")]
    changed = False
    for place in places:
        binding = place.get("protocolBinding") or place.get("transport") or place.get("preferredTransport") or "JSONRPC"
        said = place.get("url")
        if binding == "JSONRPC" and isinstance(said, str) and _is_own(said, port, path):
            place["url"] = url
            changed = True
    return changed


def _entries(card: dict[str, Any], name: str) -> list[dict[str, Any]]:
    listed: Any = card.get(name)
    if not isinstance(listed, list):
        return []
    entries = cast("list[Any]", listed)
    return [cast("dict[str, Any]", entry) for entry in entries if isinstance(entry, dict)]


def _is_own(said: str, port: int, path: str) -> bool:
    try:
        parts = urlsplit(said)
        its_port = parts.port or (443 if parts.scheme == "https" else 80)
        host = parts.hostname or ""
        is_loopback = host in _OWN_HOSTS or ip_address(host).is_loopback
    except ValueError:
        return False
    return is_loopback and its_port == port and (parts.path or "/") == path


RULES: Final = Rules(
    target=b"/",
    render=_render,
    failures={
        "UnauthorizedException": Told(json_rpc.UNAUTHORIZED, 401),
        "AccessDeniedException": Told(None, 403),
        "ResourceNotFoundException": Told(-32051, 404),
        "ValidationException": Told(-32052, 400),
        "ThrottlingException": Told(-32053, 429),
        "ServiceQuotaExceededException": Told(-32053, 429),
        "ConflictException": Told(-32054, 409),
        "RetryableConflictException": Told(-32054, 409),
        "RuntimeClientError": Told(-32055, 424),
    },
    others=Told(-32603, 500),
    request_headers=_VERSIONING,
    response_headers=_VERSIONING,
    is_json_rpc=True,
)
