"""The parameters of data plane requests, read and checked by the service model that control hands over.

Not for the protocol itself (`freehold.aws`). Invariant: parameters that come out of `read` keep to every constraint of
the model, and a session id to the form that the service documents beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from freehold.aws.model import Operation, Service
from freehold.aws.parse import Parser, Unparseable
from freehold.aws.validate import Invalid, Validator
from freehold.domain import sessions
from freehold.domain.errors import FieldProblem, Unavailable, ValidationFailed
from freehold.gateway.heads import Headers

INVOKE: Final = "InvokeAgentRuntime"
STOP: Final = "StopRuntimeSession"
WEB_SOCKET: Final = "InvokeAgentRuntimeWithWebSocketStream"
CARD: Final = "GetAgentCard"
MAX_ECHOED: Final = 512
"""Of a runtime's name that is not known to be one."""
_MAX_KNOWN: Final = 1024
_MAX_KNOWN_BYTES: Final = 1024
"""Remembered of one request: strangers may ask, too."""


class Members:
    """Reads requests for the operations above."""

    def __init__(self, data_plane: Mapping[str, Any]) -> None:
        """From what `aws.model.Service.to_data` wrote. Raises Unavailable when that is of no use."""
        try:
            self._service = Service.from_data(data_plane)
            inputs = {name: self._service.operations[name] for name in (INVOKE, STOP, CARD)}
            # The model has no WebSocket: it names runtime, endpoint and session as an invocation does.
            inputs[WEB_SOCKET] = inputs[INVOKE]
        except (msgspec.ValidationError, KeyError) as error:
            raise Unavailable(f"control's service model can't be used: {error}") from error
        self._operations: Final = inputs
        self._known: dict[tuple[Any, ...], dict[str, Any]] = {}
        """Parameters by what they were read from. Only what was found right."""
        self._parser = Parser(self._service)
        self._validator = Validator(self._service)
        self._headers = frozenset(
            member.wire_name.encode()
            for operation in inputs.values()
            for member in self._service.shapes[operation.input].members.values()
            if member.location == "header"
        )

    @property
    def headers(self) -> frozenset[bytes]:
        """Names (lower case) of the headers that hold any of the parameters."""
        return self._headers

    def bounds(self, names: Iterable[bytes]) -> dict[bytes, int]:
        """Of `names`, those of parameters of which only a length is asked: the most that it may be."""
        found: dict[bytes, int] = {}
        for operation in self._operations.values():
            for member in self._service.shapes[operation.input].members.values():
                shape = self._service.shapes[member.shape]
                is_free = shape.type == "string" and shape.pattern is None and not shape.enum and not shape.min
                if member.location == "header" and is_free and shape.max is not None:
                    name = member.wire_name.encode()
                    found[name] = min(int(shape.max), found.get(name, int(shape.max)))
        return {name: found[name] for name in names if name in found}

    def read(
        self, operation: str, runtime: bytes, raw_query: bytes, received: Headers, body: bytes | None = None
    ) -> dict[str, Any]:
        """The operation's parameters, by the model's names. `runtime` is its part of the path, percent-encoded.

        Without `body`, what is in it is left out and not missed. Raises ValidationFailed.
        """
        asked = self._operations[operation]
        named = [header for header in received if header[0] in self._headers]
        if body is not None:
            return self._read(asked, runtime, raw_query, named, body)
        # The same for every request of a session, but for what is traced: worth remembering.
        asking = (operation, runtime, raw_query, *named)
        known = self._known.get(asking)
        if known is None:
            known = self._read(asked, runtime, raw_query, named, None)
            if len(runtime) + len(raw_query) + sum(len(value) for _, value in named) <= _MAX_KNOWN_BYTES:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                self._known[asking] = known
        return dict(known)

    def _read(
        self, asked: Operation, runtime: bytes, raw_query: bytes, named: Headers, body: bytes | None
    ) -> dict[str, Any]:
        labels = {"agentRuntimeArn": unquote_to_bytes(runtime).decode("utf-8", "replace")[:MAX_ECHOED]}
        try:
            params = self._parser.parse(asked, labels, raw_query, named, body)
            self._validator.check(asked, params, without_body=body is None)
        except (Unparseable, Invalid) as error:
            fields = tuple(FieldProblem(name, problem) for name, problem in error.fields)
            raise ValidationFailed(error.message, reason=error.reason, fields=fields) from None
        session_id = params.get("runtimeSessionId")
        if session_id is not None and not sessions.is_session_id(session_id):
            problem = "Member must satisfy regular expression pattern: [a-zA-Z0-9][a-zA-Z0-9-_]*"
            raise ValidationFailed(
                "1 validation error detected: Value at 'runtimeSessionId' failed to satisfy constraint: " + problem,
                fields=(FieldProblem("runtimeSessionId", problem),),
            )
        return params
