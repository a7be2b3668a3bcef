"""From an operation's output, or an error, to the parts of an HTTP response, by the model.

For: `control.wire` and the gateway. Not for which errors there are. Invariant: what is written is of the model's types,
and read back by an AWS SDK to what was given; an output that is not the model's is a fault of ours and raises
OutputMismatch, rather than being sent.

A shape becomes a msgspec type when it is first written, so that a value is checked and written without Python code for
each of its members: a page of a listing has hundreds.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, cast

import msgspec

from freehold.aws import timestamps
from freehold.aws.model import Member, Operation, Service, Shape, TimestampFormat

ERROR_TYPE_HEADER: Final = b"x-amzn-errortype"
_JSON: Final = (b"content-type", b"application/json")
_PLAIN: Final[dict[str, Any]] = {"string": str, "boolean": bool, "integer": int, "long": int}


class OutputMismatch(Exception):
    """An output is not what the model says it is: a bug of whoever made it. Names members, never values."""


class Kept(dict[str, Any]):
    """A structure, always of the same shape, that many answers have in a list: what was written of it is kept with it.

    It must not be changed once it has been written.
    """

    __slots__ = ("written",)

    def __init__(self, members: Mapping[str, Any]) -> None:
        super().__init__(members)
        self.written: bytes | None = None


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
        self._types = _Types(service)

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
        headers: list[tuple[bytes, bytes]] = []
        inside: dict[str, Any] = {}
        for name, value in output.items():
            member = shape.members.get(name)
            if member is None:
                raise OutputMismatch(f"{shape.name} has no member {name}")
            if value is None:
                continue
            match member.location:
                case "statusCode":
                    status = cast("int", self._value(name, member, value))
                case "header":
                    headers.append((member.wire_name.encode(), self._header(name, member, value)))
                case _:
                    inside[name] = value
        if shape.payload:
            return self._payload(status, headers, shape.members[shape.payload], shape.payload, inside)
        if not any(member.location == "body" for member in shape.members.values()):
            # 204 has no body; the others get the empty object that SDKs are used to.
            return Response(status, headers, b"") if status == 204 else Response(status, _as_json(headers), b"{}")
        kept = [self._kept_list(shape.members[name], inside.pop(name)) for name in _of_kept(inside)]
        body = msgspec.json.encode(_written(shape.name, self._types.structure(shape.name), inside))
        if kept:
            rest = () if body == b"{}" else (body[1:-1],)
            body = b"{%b}" % b",".join((*kept, *rest))
        return Response(status, _as_json(headers), body)

    def _kept_list(self, member: Member, items: list[Kept]) -> bytes:
        """A list as a member of an object."""
        shape = self._service.shapes[self._service.shapes[member.shape].element]
        for item in items:
            if item.written is None:
                item.written = msgspec.json.encode(_written(shape.name, self._types.structure(shape.name), item))
        parts = cast("list[bytes]", [item.written for item in items])
        return b'"%b":[%b]' % (member.wire_name.encode(), b",".join(parts))

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
            if not isinstance(value, bytes | bytearray | memoryview):
                raise OutputMismatch(f"{name} is {type(value).__name__}, not blob")
            return Response(status, headers, bytes(cast("bytes", value)))
        written = self._value(name, member, value)
        if shape.type == "string" and not shape.document:
            return Response(status, headers, written.encode())
        return Response(status, _as_json(headers), msgspec.json.encode(written))

    def _value(self, name: str, member: Member, value: Any) -> Any:
        return _written(name, self._types.of(self._service.shapes[member.shape], member), value)

    def _header(self, name: str, member: Member, value: Any) -> bytes:
        written = self._value(name, member, value)
        text = str(written).lower() if isinstance(written, bool) else str(written)
        if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
            raise OutputMismatch(f"{name} has a control character, which a header can't hold")
        return text.encode()


def _of_kept(members: Mapping[str, Any]) -> list[str]:
    """Which of them are lists of Kept."""
    return [
        name
        for name, value in members.items()
        if isinstance(value, list) and value and all(item.__class__ is Kept for item in cast("list[Any]", value))
    ]


class _Types:
    """msgspec types of a service's shapes. Each is made when it is first asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._structures: dict[str, Any] = {}

    def structure(self, name: str) -> Any:
        """Of the members in the body of a structure."""
        made = self._structures.get(name)
        if made is None:
            shape = self._service.shapes[name]
            # Until it is made, and within itself, it is looked up where a value is met.
            self._structures[name] = _written_by(lambda value: _convert(self._structures[name], value))
            inside = {of: member for of, member in shape.members.items() if member.location == "body"}
            fields = [
                (member.wire_name, self.of(self._service.shapes[member.shape], member) | None, None)
                for member in inside.values()
            ]
            made = msgspec.defstruct(name, fields, omit_defaults=True, forbid_unknown_fields=True)
            if any(of != member.wire_name for of, member in inside.items()):
                made = _written_by(_renaming(made, {of: member.wire_name for of, member in inside.items()}))
            self._structures[name] = made
        return made

    def of(self, shape: Shape, member: Member | None) -> Any:
        """Of a shape, as `member` if it is one."""
        if shape.document:
            return _DOCUMENT
        match shape.type:
            case "structure":
                return self.structure(shape.name)
            case "list":
                return list[self.of(self._service.shapes[shape.element], None)]
            case "map":
                return dict[str, self.of(self._service.shapes[shape.value], None)]
            case "blob":
                return _BLOB
            case "timestamp":
                return _TIMESTAMPS[timestamps.format_of(shape, member)]
            case "float" | "double":
                return _NUMBER
            case _:
                return _PLAIN[shape.type]


# -- values that msgspec leaves to us -----------------------------------------------------------------------------


class _WrittenBy(type):
    """The type of types whose values are written by a function: what it gives stands in their place."""

    write: Callable[[Any], Any]

    def __instancecheck__(cls, instance: object) -> bool:
        return True


def _written_by(write: Callable[[Any], Any]) -> Any:
    return _WrittenBy("Written", (), {"write": staticmethod(write)})


def _convert(kind: Any, value: Any) -> Any:
    return msgspec.convert(value, kind, dec_hook=_write, builtin_types=(datetime,))


def _write(kind: Any, value: Any) -> Any:
    return kind.write(value)


def _written(path: str, kind: Any, value: Any) -> Any:
    """The value as it goes into JSON."""
    try:
        return _convert(kind, value)
    except msgspec.ValidationError as error:
        raise OutputMismatch(f"{path}: {error}") from None


def _renaming(kind: Any, names: Mapping[str, str]) -> Callable[[Any], Any]:
    def write(value: Any) -> Any:
        if not isinstance(value, dict):
            raise TypeError(f"Expected `object`, got `{type(value).__name__}`")
        given = cast("dict[str, Any]", value)
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise TypeError(f"Object contains unknown field `{unknown[0]}`")
        return _convert(kind, {names[name]: inner for name, inner in given.items()})

    return write


def _blob(value: Any) -> str:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"Expected `bytes`, got `{type(value).__name__}`")
    return base64.b64encode(cast("bytes", value)).decode()


def _number(value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"Expected `float`, got `{type(value).__name__}`")
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return value


def _timestamp(fmt: TimestampFormat) -> Callable[[Any], Any]:
    def write(value: Any) -> str | int | float:
        if not isinstance(value, datetime):
            raise TypeError(f"Expected `datetime`, got `{type(value).__name__}`")
        return timestamps.write(value, fmt)

    return write


_DOCUMENT: Final = _written_by(lambda value: value)
_BLOB: Final = _written_by(_blob)
_NUMBER: Final = _written_by(_number)
_TIMESTAMPS: Final[dict[TimestampFormat, Any]] = {
    "iso8601": Annotated[datetime, msgspec.Meta(tz=True)],
    "rfc822": _written_by(_timestamp("rfc822")),
    "unixTimestamp": _written_by(_timestamp("unixTimestamp")),
}


def _as_json(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """With the content type, unless the output has one of its own."""
    return headers if any(name == _JSON[0] for name, _ in headers) else [_JSON, *headers]
