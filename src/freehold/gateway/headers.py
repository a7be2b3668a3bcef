"""Which headers pass: from a caller to the agent, and from the agent to the caller.

Source: spec section 1.5 and the members of InvokeAgentRuntime. Not for authentication, whose headers pass neither
way, but for a token that the runtime's allowlist names. Invariant: a header that no rule names does not pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from freehold.domain.errors import ValidationFailed
from freehold.domain.limits import ALLOWED_HEADER_VALUE_BYTES
from freehold.gateway.contracts import mcp
from freehold.gateway.contracts.base import Rules
from freehold.gateway.heads import Headers, ResponseHead, lines_of
from freehold.observe import trace_context
from freehold.observe.trace_context import Context

SESSION_ID: Final = b"x-amzn-bedrock-agentcore-runtime-session-id"
REQUEST_ID: Final = b"x-amzn-bedrock-agentcore-runtime-request-id"
USER_ID: Final = b"x-amzn-bedrock-agentcore-runtime-user-id"

_TO_AGENT: Final = frozenset({b"baggage", b"content-type", b"accept", USER_ID})
_TO_AGENT_BY_TOKEN: Final = _TO_AGENT - {USER_ID}
_AUTHORIZATION: Final = b"authorization"
_TO_CALLER: Final = trace_context.NAMES | {b"baggage", b"content-type"}


class AgentHead:
    """The head of requests to the agent, but for what no two of them share. Raises as `kept_of`."""

    __slots__ = ("first", "kept", "rest")

    def __init__(
        self,
        target: bytes,
        received: Headers,
        *,
        rules: Rules,
        allowlist: Sequence[str],
        session_id: str,
        port: int,
        by_token: bool,
        added: Headers | None = None,
        method: bytes = b"POST",
    ) -> None:
        """`added` are sent beside what was `received`. For `by_token` see kept_of."""
        kept = kept_of(received, rules=rules, allowlist=allowlist, by_token=by_token)
        self.kept: Final = frozenset(name for name, _ in kept)
        """Names of what was received that passes."""
        self.first = b"%b %b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n%b: %b\r\n%b: " % (
            method, target, port, SESSION_ID, session_id.encode(), REQUEST_ID
        )  # fmt: skip
        if b"content-type" not in self.kept:
            kept.append((b"content-type", b"application/json"))
        self.rest = b"".join([b"\r\n", *(b"%b: %b\r\n" % header for header in (*kept, *(added or ())))])

    def of(self, request_id: str, content_length: int | None, trace: Context) -> bytes:
        """The head of one request, as a part of `trace`.

        `content_length` is None for a body that is passed on in chunks, as it comes.
        """
        framing = b"transfer-encoding: chunked" if content_length is None else b"content-length: %d" % content_length
        return b"".join((self.first, request_id.encode(), self.rest, framing, b"\r\n", trace.lines, b"\r\n"))

    def with_body(self, request_id: str, body: bytes, trace_lines: bytes) -> bytes:
        """As `of`, and the body."""
        size = b"content-length: %d\r\n" % len(body)
        return b"".join((self.first, request_id.encode(), self.rest, size, trace_lines, b"\r\n", body))


def kept_of(received: Headers, *, rules: Rules, allowlist: Sequence[str], by_token: bool) -> Headers:
    """What reaches the agent of a request's headers; nothing of a trace does, of which it is told anew.

    `by_token` says that the caller has shown a token: that may be passed on where it is allowed, a signature never; and
    who the caller is, is what the token says, not the header for callers that speak for others. Raises ValidationFailed
    for an allowed header that is too long.
    """
    passed = _TO_AGENT_BY_TOKEN if by_token else _TO_AGENT
    also, prefixes = rules.request_headers, rules.request_prefixes
    allowed = frozenset(name.encode() for name in allowlist) - trace_context.NAMES - rules.withheld_headers
    if not by_token:
        allowed -= {_AUTHORIZATION}
    kept: Headers = []
    has_type = False
    for name, value in received:
        if name in passed or name in also or (prefixes and name.startswith(prefixes)):
            if name == b"content-type":
                if has_type:
                    continue
                has_type = True
        elif name in allowed:
            if len(value) > ALLOWED_HEADER_VALUE_BYTES:
                raise ValidationFailed(
                    f"The value of header {name.decode()} is longer than {ALLOWED_HEADER_VALUE_BYTES} bytes"
                )
        else:
            continue
        kept.append((name, value))
    return kept


def caller_lines(head: ResponseHead, *, rules: Rules, session_id: bytes, trace: Context | None) -> bytes:
    """What reaches the caller of the agent's headers, the session's id, and `trace` unless the agent told of one."""
    kept: tuple[bytes, bool] | None = head.kept.get(rules)
    if kept is None:
        kept = head.kept[rules] = _kept_of_agents(head.headers, rules)
    lines, has_trace = kept
    told = b"" if trace is None or has_trace else trace.lines
    of_protocol = b"%b: %b\r\n" % (mcp.SESSION_ID, session_id) if rules.has_sessions else b""
    return b"".join((lines, told, SESSION_ID, b": ", session_id, b"\r\n", of_protocol))


def _kept_of_agents(sent: Headers, rules: Rules) -> tuple[bytes, bool]:
    """Lines of what passes, and whether there is anything of a trace among them."""
    kept = [(name, value) for name, value in sent if name in _TO_CALLER or name in rules.response_headers]
    names = {name for name, _ in kept}
    if b"content-type" not in names:
        # A required member of the response; nothing is known of the bytes.
        kept.append((b"content-type", b"application/octet-stream"))
    return lines_of(kept), not names.isdisjoint(trace_context.NAMES)


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
