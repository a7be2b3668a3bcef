"""Which headers pass: from a caller to the agent, and from the agent to the caller.

Source: spec section 1.5 and the members of InvokeAgentRuntime. Not for authentication, whose headers pass neither
way, but for a token that the runtime's allowlist names. Invariant: a header that no rule names does not pass.
"""

from __future__ import annotations

from typing import Final

from freehold.domain.errors import ValidationFailed
from freehold.domain.limits import ALLOWED_HEADER_VALUE_BYTES
from freehold.gateway.contracts import mcp
from freehold.gateway.contracts.base import Rules
from freehold.gateway.heads import Headers
from freehold.observe import trace_context
from freehold.observe.trace_context import Context

SESSION_ID: Final = b"x-amzn-bedrock-agentcore-runtime-session-id"
REQUEST_ID: Final = b"x-amzn-bedrock-agentcore-runtime-request-id"
USER_ID: Final = b"x-amzn-bedrock-agentcore-runtime-user-id"

_TO_AGENT: Final = frozenset({b"baggage", b"content-type", b"accept", USER_ID})
_TO_AGENT_BY_TOKEN: Final = _TO_AGENT - {USER_ID}
_AUTHORIZATION: Final = b"authorization"
_TO_CALLER: Final = trace_context.NAMES | {b"baggage", b"content-type"}


def agent_request(
    target: bytes,
    received: Headers,
    *,
    rules: Rules,
    allowlist: frozenset[bytes],
    session_id: str,
    request_id: str,
    port: int,
    content_length: int | None,
    trace: Context,
    added: Headers | None = None,
    method: bytes = b"POST",
    by_token: bool,
) -> bytes:
    """The head of the request to the agent, as a part of `trace`, whatever was received of one.

    `content_length` is None for a body that is passed on in chunks, as it comes. `added` are sent beside what was
    received. For `by_token` see add_passing. Raises ValidationFailed for an allowed header that is too long.
    """
    framing = b"transfer-encoding: chunked" if content_length is None else b"content-length: %d" % content_length
    lines = [
        b"%b %b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n%b\r\n" % (method, target, port, framing),
        b"%b: %b\r\n%b: %b\r\n" % (SESSION_ID, session_id.encode(), REQUEST_ID, request_id.encode()),
    ]
    if not add_passing(lines, received, rules=rules, allowlist=allowlist, by_token=by_token):
        lines.append(b"content-type: application/json\r\n")
    lines += [b"%b: %b\r\n" % header for header in trace.headers()]
    if added:
        lines += [b"%b: %b\r\n" % header for header in added]
    lines.append(b"\r\n")
    return b"".join(lines)


def add_passing(
    lines: list[bytes], received: Headers, *, rules: Rules, allowlist: frozenset[bytes], by_token: bool
) -> bool:
    """Add to `lines` what reaches the agent of a request's headers; whether its content type does.

    `by_token` says that the caller has shown a token: that may be passed on where it is allowed, a signature never; and
    who the caller is, is what the token says, not the header for callers that speak for others. Raises ValidationFailed
    for an allowed header that is too long.
    """
    passed = _TO_AGENT_BY_TOKEN if by_token else _TO_AGENT
    if not by_token and _AUTHORIZATION in allowlist:
        allowlist -= {_AUTHORIZATION}
    also, prefixes, withheld = rules.request_headers, rules.request_prefixes, rules.withheld_headers
    has_type = False
    for name, value in received:
        if name in passed or name in also or (prefixes and name.startswith(prefixes)):
            if name == b"content-type":
                if has_type:
                    continue
                has_type = True
        elif name in allowlist and name not in trace_context.NAMES and name not in withheld:
            if len(value) > ALLOWED_HEADER_VALUE_BYTES:
                raise ValidationFailed(
                    f"The value of header {name.decode()} is longer than {ALLOWED_HEADER_VALUE_BYTES} bytes"
                )
        else:
            continue
        lines.append(b"%b: %b\r\n" % (name, value))
    return has_type


def caller_headers(sent: Headers, *, rules: Rules, session_id: bytes, trace: Context | None) -> Headers:
    """What reaches the caller of the agent's headers, the session's id, and `trace` unless the agent told of one."""
    also = rules.response_headers
    kept = [(name, value) for name, value in sent if name in _TO_CALLER or name in also]
    names = {name for name, _ in kept}
    if b"content-type" not in names:
        # A required member of the response; nothing is known of the bytes.
        kept.append((b"content-type", b"application/octet-stream"))
    if trace is not None and names.isdisjoint(trace_context.NAMES):
        kept += trace.headers()
    kept.append((SESSION_ID, session_id))
    if rules.has_sessions:
        kept.append((mcp.SESSION_ID, session_id))
    return kept


# -- what is relayed to control -----------------------------------------------------------------------------------

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"expect",
    }
)
_CLAIMS_OF_PROXIES: Final = frozenset({b"forwarded", b"x-real-ip"})


def end_to_end(received: Headers) -> Headers:
    """Without the headers of one connection, and without what a caller may say of where it comes from."""
    nominated = {
        option.strip().lower() for name, value in received if name == b"connection" for option in value.split(b",")
    }
    # What decides whose request it is can't be nominated away.
    nominated -= {b"host", b"authorization", b"content-type"}
    return [
        (name, value)
        for name, value in received
        if name not in _HOP_BY_HOP
        and name not in nominated
        and name not in _CLAIMS_OF_PROXIES
        and not name.startswith(b"x-forwarded-")
    ]
