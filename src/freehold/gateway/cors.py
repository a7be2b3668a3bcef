"""What lets pages in browsers call runtimes that take tokens, from any origin: such calls carry no cookie.

Source: spec section 0 (an emulator's word for the service's); the Fetch standard. Invariant: nothing here depends on
the origin, so no answer is good for one page and not for another.
"""

from __future__ import annotations

import re
from typing import Final

from freehold.gateway.heads import Headers, lines_of

_EXPOSED: Final = (
    b"smithy-protocol,baggage,WWW-Authenticate,Date,Mcp-Session-Id,X-Amzn-Trace-Id,"
    b"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id,Mcp-Protocol-Version,tracestate,x-amzn-ErrorMessage,traceparent,"
    b"x-amzn-RequestId,x-amzn-ErrorType"
)
_MAX_AGE: Final = b"172800"
_NAMES: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")

ANSWER: Final = lines_of(
    [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _EXPOSED)],
)
"""Lines of every answer of a runtime that takes tokens."""


def preflight(received: Headers, method: bytes) -> Headers:
    """The headers of the answer to a preflight, beside ANSWER. `method` is the operation's own."""
    asked = dict(received)
    wanted = asked.get(b"access-control-request-method", method)
    names = asked.get(b"access-control-request-headers", b"")
    told = [
        (b"access-control-allow-methods", wanted if _NAMES.fullmatch(wanted) else method),
        (b"access-control-max-age", _MAX_AGE),
    ]
    if _NAMES.fullmatch(names):
        told.append((b"access-control-allow-headers", names))
    return told
