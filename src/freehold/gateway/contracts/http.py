"""The HTTP contract: POST /invocations; failures as AWS errors. Source: spec sections 1.1, 1.6 and 4.2.

A caller without a good token is told so in JSON-RPC, as the service was seen to do for this protocol, too.
"""

from __future__ import annotations

from typing import Final

from freehold.gateway import errors
from freehold.gateway.contracts import json_rpc
from freehold.gateway.contracts.base import Rules, Told
from freehold.gateway.errors import Answer, WireError


def _render(error: WireError, told: Told, _request_id: bytes | None) -> Answer:
    return errors.envelope(error) if told.code is None else json_rpc.render(error, told, None)


RULES: Final = Rules(
    target=b"/invocations",
    web_socket_target=b"/ws",
    render=_render,
    failures={"UnauthorizedException": Told(json_rpc.UNAUTHORIZED, 401)}
    | {code: Told(None, status) for code, status in errors.STATUSES.items() if code != "UnauthorizedException"},
    others=Told(None, 500),
)
