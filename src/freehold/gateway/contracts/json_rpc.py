"""JSON-RPC 2.0 as MCP and A2A carry it over HTTP: which request a body holds, and how a failure of it is told.

Not for the protocols' methods. Invariant: reading never fails; of what is no request nothing is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from freehold.gateway.contracts.base import Told
from freehold.gateway.errors import Answer, WireError

UNAUTHORIZED: Final = -32001
MAX_WHOLE_BYTES: Final = 64 * 1024
"""Larger messages are not read whole: the id is looked for near their ends, where serialisers put it."""
MAX_TAIL_BYTES: Final = 4 * 1024

_STRING: Final = rb'"(?:[^"\\]|\\.)*"'
_ID: Final = rb'"id"\s*:\s*(' + _STRING + rb"|-?\d{1,20})"
_OTHER: Final = rb'"(?:jsonrpc|method)"\s*:\s*' + _STRING
_AT_BEGIN: Final = re.compile(rb"(?:[0-9A-Fa-f]+[^\r\n]*\r\n)?\s*\{\s*(?:" + _OTHER + rb"\s*,\s*)*" + _ID)
"""Before it there may be the size of a chunk, since a body that streams is seen as it came."""
_AT_END: Final = re.compile(
    rb"[,}\]\"0-9el]\s*,\s*" + _ID + rb"\s*(?:,\s*" + _OTHER + rb"\s*)*\}\s*(?:\r\n0\r\n\r\n)?$"
)


class _Envelope(msgspec.Struct):
    id: int | float | str | None = None
    method: str | None = None


_read_envelope = msgspec.json.Decoder(_Envelope).decode


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of a message. `id` is JSON; None when there is none, or it could not be found."""

    id: bytes | None = None
    method: str | None = None


def read(head: bytes, tail: bytes = b"") -> Request:
    """What is known of a body: all of it is in `head` unless there is a `tail`, its last bytes."""
    if not tail and len(head) <= MAX_WHOLE_BYTES:
        try:
            envelope = _read_envelope(head)
        except (msgspec.DecodeError, RecursionError):
            return Request()
        return Request(None if envelope.id is None else msgspec.json.encode(envelope.id), envelope.method)
    found = _AT_BEGIN.match(head) or _AT_END.search((tail or head)[-MAX_TAIL_BYTES:])
    if found is None:
        return Request()
    try:
        return Request(msgspec.json.encode(msgspec.json.decode(found[1], type=int | str)))
    except msgspec.DecodeError:
        return Request()


def render(error: WireError, told: Told, request_id: bytes | None) -> Answer:
    """A failure as a JSON-RPC error. Its id is null where the request's is not known.

    It is left out where nobody has looked for one, since the caller is not known: so the service does it.
    """
    said = msgspec.json.encode({"code": told.code, "message": error.message})
    identified = b"" if told.code == UNAUTHORIZED else b'"id":%b,' % (request_id or b"null")
    headers = ((b"content-type", b"application/json"), (b"x-amzn-errortype", error.code.encode()))
    return Answer(told.status, headers, b'{"jsonrpc":"2.0",%b"error":%b}' % (identified, said))
