"""From an operation's output, or an error, to the parts of an HTTP response, by the model.

For: `control.wire` and the gateway. Not for which errors there are. Invariant: what is written is of the model's types,
and read back by an AWS SDK to what was given; an output that is not the model's is a fault of ours and raises
OutputMismatch, rather than being sent.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

import msgspec

from freehold.aws import timestamps
from freehold.aws.model import Member, Operation, Service, Shape

ERROR_TYPE_HEADER: Final = b"x-amzn-errortype"
_JSON: Final = (b"content-type", b"application/json")
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list, tuple),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "blob": (bytes, bytearray, memoryview),
    "timestamp": (datetime,),
}


class OutputMismatch(Exception):
    """An output is not what the model says it is: a bug of whoever made it. Names members, never values."""


@dataclass(frozen=True, slots=True)
class Response:
    """The parts of a response. `stream` is the output's streaming member as it was given; then `body` is empty."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    stream: Any = None


class Serializer:
    """Writes responses of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._errors = {shape.error_code: shape for shape in service.shapes.values() if shape.error_code}

    def output(self, operation: Operation, output: Mapping[str, Any]) -> Response:
        """The successful answer. Members that are None are left out. Raises OutputMismatch."""
        if not operation.output:
            if output:
                raise OutputMismatch(f"{operation.name} has no output")
            return Response(operation.status, [], b"")
        return self._response(operation.status, self._service.shapes[operation.output], output)

    def error(self, code: str, message: str, members: Mapping[str, Any] | None = None) -> Response:
        """An error of the model by its code, with its members beside `message`. Raises OutputMismatch."""
        shape = self._errors.get(code)
        if shape is None:
            raise OutputMismatch(f"{self._service.name} has no error {code}")
        response = self._response(shape.error_status, shape, {"message": message, **(members or {})})
        return Response(response.status, [(ERROR_TYPE_HEADER, code.encode()), *response.headers], response.body)

    def _response(self, status: int, shape: Shape, output: Mapping[str, Any]) -> Response:
        unknown = sorted(set(output) - set(shape.members))
        if unknown:
            raise OutputMismatch(f"{shape.name} has no member {', '.join(unknown)}")
        headers: list[tuple[bytes, bytes]] = []
        inside: dict[str, Any] = {}
        for name, value in output.items():
            member = shape.members[name]
            if value is None:
                continue
            match member.location:
                case "statusCode":
                    status = cast("int", self._value(name, self._service.shapes[member.shape], member, value))
                case "header":
                    headers.append((member.wire_name.encode(), self._header(name, member, value)))
                case _:
                    inside[name] = value
        if shape.payload:
            return self._payload(status, headers, shape.members[shape.payload], shape.payload, inside)
        if not any(member.location == "body" for member in shape.members.values()):
            # 204 has no body; the others get the empty object that SDKs are used to.
            return Response(status, headers, b"") if status == 204 else Response(status, _as_json(headers), b"{}")
        body = msgspec.json.encode(self._members(shape.name, shape.members, inside))
        return Response(status, _as_json(headers), body)

    def _payload(
        self, status: int, headers: list[tuple[bytes, bytes]], member: Member, name: str, inside: dict[str, Any]
    ) -> Response:
        stray = sorted(set(inside) - {name})
        if stray:
            raise OutputMismatch(f"{', '.join(stray)}: the body is {name} alone")
        shape = self._service.shapes[member.shape]
        value = inside.get(name)
        if value is None:
            return Response(status, headers, b"")
        if shape.streaming or member.streaming or shape.event_stream:
            return Response(status, headers, b"", stream=value)
        if shape.type == "blob":
            _check_kind(name, shape, value)
            return Response(status, headers, bytes(value))
        if shape.type == "string" and not shape.document:
            _check_kind(name, shape, value)
            return Response(status, headers, value.encode())
        return Response(status, _as_json(headers), msgspec.json.encode(self._value(name, shape, member, value)))

    def _header(self, name: str, member: Member, value: Any) -> bytes:
        written = self._value(name, self._service.shapes[member.shape], member, value)
        text = str(written).lower() if isinstance(written, bool) else str(written)
        if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
            raise OutputMismatch(f"{name} has a control character, which a header can't hold")
        return text.encode()

    def _members(self, path: str, members: Mapping[str, Member], value: Mapping[str, Any]) -> dict[str, Any]:
        written: dict[str, Any] = {}
        for name, inner in value.items():
            member = members.get(name)
            if member is None:
                raise OutputMismatch(f"{path} has no member {name}")
            if inner is not None:
                shape = self._service.shapes[member.shape]
                written[member.wire_name] = self._value(f"{path}.{name}", shape, member, inner)
        return written

    def _value(self, path: str, shape: Shape, member: Member | None, value: Any) -> Any:
        if shape.document:
            return value
        _check_kind(path, shape, value)
        match shape.type:
            case "structure":
                return self._members(path, shape.members, value)
            case "list":
                element = self._service.shapes[shape.element]
                return [self._value(f"{path}[]", element, None, inner) for inner in value]
            case "map":
                inner_shape = self._service.shapes[shape.value]
                return {key: self._value(f"{path}{{}}", inner_shape, None, inner) for key, inner in value.items()}
            case "blob":
                return base64.b64encode(value).decode()
            case "timestamp":
                return timestamps.write(value, timestamps.format_of(shape, member))
            case _:
                return value


def _as_json(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """With the content type, unless the output has one of its own."""
    return headers if any(name == _JSON[0] for name, _ in headers) else [_JSON, *headers]


def _check_kind(path: str, shape: Shape, value: Any) -> None:
    kinds = _KINDS[shape.type]
    wrong_boolean = isinstance(value, bool) and bool not in kinds
    if not isinstance(value, kinds) or wrong_boolean:
        raise OutputMismatch(f"{path} is {type(value).__name__}, not {shape.type}")
    if isinstance(value, float) and not math.isfinite(value):
        raise OutputMismatch(f"{path} is not a finite number")
