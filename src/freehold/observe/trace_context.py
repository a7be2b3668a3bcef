"""Where a request stands in a distributed trace, in both forms that callers use: W3C and X-Ray.

For: the gateway's hot path. Not for spans (`spans`). Invariant: the two forms of one Context name the same trace, the
same parent and the same decision to sample; what a caller sent that can't be read is as if it had not been sent.
Sources: W3C Trace Context (level 1), X-Ray developer guide (tracing header), spec sections 1.5, 8.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from freehold.observe import ids

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
XRAY: Final = b"x-amzn-trace-id"
NAMES: Final = frozenset({TRACEPARENT, TRACESTATE, XRAY})
"""What `Context.lines` writes anew. `baggage` is the application's, and passes as it is."""

_MAX_TRACESTATE_BYTES: Final = 4096
_W3C: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_ROOT: Final = re.compile(rb"1-([0-9a-fA-F]{8})-([0-9a-fA-F]{24})")
_PARENT: Final = re.compile(rb"[0-9a-fA-F]{16}")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


class Context:
    """A place in a trace. `trace_id` is 32, `span_id` 16 lower-case hex digits."""

    __slots__ = ("_lines", "sampled", "span_id", "state", "trace_id")

    def __init__(self, trace_id: str, span_id: str, sampled: bool, state: bytes = b"") -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.sampled = sampled
        self.state = state
        """The W3C `tracestate`, which only vendors read."""
        self._lines = b""

    @property
    def lines(self) -> bytes:
        """Header lines of both forms, as they are passed on: to the agent, and back to the caller."""
        if not self._lines:
            trace, span, sampled = self.trace_id, self.span_id, "1" if self.sampled else "0"
            told = (
                f"x-amzn-trace-id: Root=1-{trace[:8]}-{trace[8:]};Parent={span};Sampled={sampled}\r\n"
                f"traceparent: 00-{trace}-{span}-0{sampled}\r\n"
            ).encode()
            self._lines = told + b"tracestate: %b\r\n" % self.state if self.state else told
        return self._lines

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`lines` as names and values."""
        pairs = (line.partition(b": ") for line in self.lines.split(b"\r\n") if line)
        return [(name, value) for name, _, value in pairs]


def received(headers: Sequence[tuple[bytes, bytes]]) -> Context | None:
    """The context that a request came with; None when it has none that can be read.

    `headers` has names in lower case. Where both forms are there, `traceparent` names the trace and the span, and
    either may say that it is not sampled.
    """
    traceparents: list[bytes] = []
    states: list[bytes] = []
    xray: bytes | None = None
    for name, value in headers:
        if name == TRACEPARENT:
            traceparents.append(value)
        elif name == TRACESTATE:
            states.append(value)
        elif name == XRAY:
            xray = value
    if not traceparents and xray is None:
        return None
    told = _read_xray(xray) if xray is not None else None
    # Twice is a fault of the caller's, and neither can be preferred (W3C 3.2.2).
    context = _read_w3c(traceparents[0]) if len(traceparents) == 1 else None
    if context is None:
        return told
    state = b",".join(states)
    if len(state) <= _MAX_TRACESTATE_BYTES:
        context.state = state
    if xray is not None and _is_unsampled(xray):
        context.sampled = False
    return context


def _read_w3c(value: bytes) -> Context | None:
    match = _W3C.fullmatch(value)
    if match is None or (value[:2] == b"00" and match[4] is not None):
        return None
    trace_id, span_id = match[1].decode(), match[2].decode()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Context(trace_id, span_id, sampled=bool(int(match[3], 16) & 1))


def _read_xray(value: bytes) -> Context | None:
    """Without a Root there is no trace. A Parent may be missing: the caller is at the trace's beginning then."""
    parts: dict[bytes, bytes] = {}
    for part in value.split(b";"):
        name, _, told = part.strip().partition(b"=")
        parts[name] = told
    root = _ROOT.fullmatch(parts.get(b"Root", b""))
    if root is None:
        return None
    parent = parts.get(b"Parent", b"")
    span_id = parent.decode().lower() if _PARENT.fullmatch(parent) else ids.span_id()
    trace_id = (root[1] + root[2]).decode().lower()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    # "?" leaves the decision to us, and so does saying nothing.
    return Context(trace_id, span_id, sampled=parts.get(b"Sampled") != b"0")


def _is_unsampled(xray: bytes) -> bool:
    return any(part.strip() == b"Sampled=0" for part in xray.split(b";"))
