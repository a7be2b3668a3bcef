"""From the parts of an HTTP request to an operation's parameters, by the model.

For: `control.wire` and the gateway, after routing. Not for constraints (`aws.validate`): a parameter that comes out has
the model's type, and nothing more is said of it. Invariant: whatever the bytes are, the outcome is parameters of the
model's types or Unparseable; nothing is guessed, and what is read twice is refused (JSON keys apart, whose last one
counts, as it does with AWS).

Members that the model does not know are ignored, as AWS does, and so are members that are null.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast
from urllib.parse import unquote_to_bytes

import msgspec

from freehold.aws import timestamps
from freehold.aws.model import Member, Operation, Service, Shape

MAX_DEPTH: Final = 64
"""Of lists and objects within each other."""
MAX_QUERY_PAIRS: Final = 1000
REASON: Final = "CannotParse"
_INT_BITS: Final = {"integer": 32, "long": 64}
_WHOLE: Final = re.compile(r"-?[0-9]{1,20}")
_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,4})?")
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_JOINED_HEADERS: Final = frozenset({"accept", "baggage", "tracestate"})
"""Headers that HTTP lets be sent in several lines; any other that is a parameter may be there once."""

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, values as received, in order."""


class Unparseable(Exception):
    """The request does not have the form that the model gives it.

    `message` and `fields` (name, message) name members and types, never values; `reason` is `CannotParse`.
    """

    def __init__(self, name: str, problem: str) -> None:
        self.reason = REASON
        self.fields: tuple[tuple[str, str], ...] = ((name, problem),)
        self.message = f"The request can't be parsed: '{name}' {problem}"
        super().__init__(self.message)


@dataclass(frozen=True, slots=True)
class _Place:
    """A member outside the body."""

    name: str
    member: Member
    shape: Shape


@dataclass(frozen=True, slots=True)
class _Plan:
    """An operation's members outside the body by their names on the wire: looked up once a request, not once a name."""

    labels: dict[str, _Place]
    query: dict[str, _Place]
    headers: dict[bytes, _Place]


def _plan(service: Service, operation: Operation) -> _Plan:
    plan = _Plan({}, {}, {})
    for name, member in service.shapes[operation.input].members.items():
        place = _Place(name, member, service.shapes[member.shape])
        match member.location:
            case "uri":
                plan.labels[member.wire_name] = place
            case "querystring":
                plan.query[member.wire_name] = place
            case "header":
                plan.headers[member.wire_name.encode()] = place
            case "body" | "statusCode":
                pass
    return plan


class Parser:
    """Reads requests to one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._plans = {o.name: _plan(service, o) for o in service.operations.values() if o.input}

    def parse(
        self,
        operation: Operation,
        path_params: Mapping[str, str],
        query: bytes,
        headers: Headers,
        body: bytes | None,
    ) -> dict[str, Any]:
        """The parameters, by the model's member names, typed as boto3 would give them.

        `query` is raw, without `?`. `body` None leaves out what the body would hold (for a caller that streams it).
        Raises Unparseable.
        """
        if not operation.input:
            return {}
        plan = self._plans[operation.name]
        params: dict[str, Any] = {}
        for label, place in plan.labels.items():
            params[place.name] = _from_text(place, path_params[label])
        self._read_query(params, plan, query)
        _read_headers(params, plan, headers)
        if body is not None:
            params.update(self._body(self._service.shapes[operation.input], body))
        return params

    def _read_query(self, params: dict[str, Any], plan: _Plan, query: bytes) -> None:
        for key, value in _query_pairs(query):
            place = plan.query.get(key)
            if place is None:
                continue
            if place.shape.type == "list":
                element = self._service.shapes[place.shape.element]
                each = _Place(place.name, place.member, element)
                params.setdefault(place.name, []).append(_from_text(each, value))
            elif place.name in params:
                raise Unparseable(place.name, "is in the query more than once")
            else:
                params[place.name] = _from_text(place, value)

    # -- body -----------------------------------------------------------------------------------------------------

    def _body(self, shape: Shape, body: bytes) -> dict[str, Any]:
        if shape.payload:
            return self._payload(shape.payload, shape.members[shape.payload], body)
        inside = {name: member for name, member in shape.members.items() if member.location == "body"}
        if not inside or not body:
            return {}
        return self._members("", inside, _decode("body", body), 1)

    def _payload(self, name: str, member: Member, body: bytes) -> dict[str, Any]:
        shape = self._service.shapes[member.shape]
        if shape.type == "blob":
            return {name: body}
        if not body:
            return {}
        if shape.type == "string" and not shape.document:
            try:
                return {name: body.decode()}
            except UnicodeDecodeError:
                raise Unparseable(name, "is not UTF-8") from None
        value = self._value(name, shape, member, _decode(name, body), 0)
        return {} if value is None else {name: value}

    def _value(self, name: str, shape: Shape, member: Member | None, value: Any, depth: int) -> Any:
        """A JSON value as the shape's type; None for null."""
        if value is None:
            return None
        if shape.document:
            return _bounded(name, value, depth)
        if depth >= MAX_DEPTH and shape.type in ("structure", "list", "map"):
            raise Unparseable(name, f"is nested deeper than {MAX_DEPTH} levels")
        match shape.type:
            case "structure":
                return self._members(name, shape.members, value, depth + 1)
            case "list":
                return self._list(name, shape, value, depth + 1)
            case "map":
                return self._map(name, shape, value, depth + 1)
            case _:
                return _SCALARS[shape.type](name, shape, member, value)

    def _members(self, name: str, members: Mapping[str, Member], value: Any, depth: int) -> dict[str, Any]:
        """A JSON object as a structure; `name` is empty for the body itself."""
        given = _object(name or "body", value)
        found: dict[str, Any] = {}
        for member_name, member in members.items():
            inner = given.get(member.wire_name)
            if inner is not None:
                path = f"{name}.{member_name}" if name else member_name
                found[member_name] = self._value(path, self._service.shapes[member.shape], member, inner, depth)
        return found

    def _list(self, name: str, shape: Shape, value: Any, depth: int) -> list[Any]:
        if not isinstance(value, list):
            _refuse_type(name, "a list")
        element = self._service.shapes[shape.element]
        found: list[Any] = []
        for number, inner in enumerate(cast("list[Any]", value), 1):
            if inner is None:
                raise Unparseable(name, "has an element that is null")
            found.append(self._value(f"{name}.{number}.member", element, None, inner, depth))
        return found

    def _map(self, name: str, shape: Shape, value: Any, depth: int) -> dict[str, Any]:
        inner_shape = self._service.shapes[shape.value]
        found: dict[str, Any] = {}
        for key, inner in _object(name, value).items():
            if inner is None:
                raise Unparseable(name, "has a value that is null")
            # Keys may be secret: they are not named.
            found[key] = self._value(f"{name}.value", inner_shape, None, inner, depth)
        return found


# -- JSON values --------------------------------------------------------------------------------------------------


def _decode(name: str, body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise Unparseable(name, f"is nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeDecodeError:
        raise Unparseable(name, "is not UTF-8") from None
    except msgspec.MsgspecError as error:
        raise Unparseable(name, f"is not JSON: {error}") from None


def _bounded(name: str, value: Any, depth: int) -> Any:
    """A document, once it is known not to be too deep."""
    waiting: list[tuple[Any, int]] = [(value, depth)]
    while waiting:
        inner, at = waiting.pop()
        if isinstance(inner, dict):
            children = list(cast("dict[str, Any]", inner).values())
        elif isinstance(inner, list):
            children = cast("list[Any]", inner)
        else:
            continue
        if at >= MAX_DEPTH:
            raise Unparseable(name, f"is nested deeper than {MAX_DEPTH} levels")
        waiting.extend((child, at + 1) for child in children)
    return value


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse_type(name, "an object")
    return cast("dict[str, Any]", value)


def _refuse_type(name: str, what: str) -> NoReturn:
    raise Unparseable(name, f"is not {what}")


def _string(name: str, _shape: Shape, _member: Member | None, value: Any) -> str:
    if not isinstance(value, str):
        _refuse_type(name, "a string")
    return value


def _boolean(name: str, _shape: Shape, _member: Member | None, value: Any) -> bool:
    if not isinstance(value, bool):
        _refuse_type(name, "a boolean")
    return value


def _whole(name: str, shape: Shape, _member: Member | None, value: Any) -> int:
    bits = _INT_BITS[shape.type]
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse_type(name, "a whole number")
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise Unparseable(name, f"is beyond a whole number of {bits} bits")
    return value


def _number(name: str, _shape: Shape, _member: Member | None, value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse_type(name, "a number")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise Unparseable(name, "is not a finite number")
    return value


def _blob(name: str, _shape: Shape, _member: Member | None, value: Any) -> bytes:
    try:
        return base64.b64decode(_string(name, _shape, _member, value), validate=True)
    except (binascii.Error, ValueError):
        raise Unparseable(name, "is not base64") from None


def _timestamp(name: str, shape: Shape, member: Member | None, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        _refuse_type(name, "a timestamp")
    fmt = timestamps.format_of(shape, member)
    if fmt == "unixTimestamp" and isinstance(value, str) and (member is None or member.location == "body"):
        _refuse_type(name, "a number of seconds")
    try:
        return timestamps.read(value, fmt)
    except ValueError as error:
        raise Unparseable(name, f"is not a timestamp of format {fmt}: {error}") from None


_SCALARS: Final[dict[str, Callable[[str, Shape, Member | None, Any], Any]]] = {
    "string": _string,
    "boolean": _boolean,
    "integer": _whole,
    "long": _whole,
    "float": _number,
    "double": _number,
    "blob": _blob,
    "timestamp": _timestamp,
}


# -- text values --------------------------------------------------------------------------------------------------


def _read_headers(params: dict[str, Any], plan: _Plan, headers: Headers) -> None:
    found: dict[bytes, list[bytes]] = {}
    for key, value in headers:
        if key in plan.headers:
            found.setdefault(key, []).append(value)
    for key, values in found.items():
        place = plan.headers[key]
        if len(values) > 1 and place.member.wire_name not in _JOINED_HEADERS:
            raise Unparseable(place.name, f"is in more than one header {place.member.wire_name}")
        params[place.name] = _from_text(place, ", ".join([_header_text(value) for value in values]))


def _from_text(place: _Place, text: str) -> Any:
    """A value of a path, query or header as the shape's type."""
    value: Any = text
    match place.shape.type:
        case "string":
            return text
        case "boolean":
            value = {"true": True, "false": False}.get(text)
        case "integer" | "long":
            value = int(text) if _WHOLE.fullmatch(text) else None
        case "float" | "double":
            value = float(text) if _DECIMAL.fullmatch(text) else None
        case _:
            pass
    return _SCALARS[place.shape.type](place.name, place.shape, place.member, value)


def _query_pairs(query: bytes) -> list[tuple[str, str]]:
    if not query:
        return []
    raw = query.split(b"&", MAX_QUERY_PAIRS)
    if len(raw) > MAX_QUERY_PAIRS:
        raise Unparseable("query", f"has more than {MAX_QUERY_PAIRS} parameters")
    if _BROKEN_ESCAPE.search(query):
        raise Unparseable("query", "has a '%' that is not followed by two hexadecimal digits")
    try:
        # A plus sign is itself: signers encode a space as %20.
        pairs = [tuple(unquote_to_bytes(part).decode() for part in pair.partition(b"=")[::2]) for pair in raw if pair]
    except UnicodeDecodeError:
        raise Unparseable("query", "is not UTF-8 when its percent-encoding is removed") from None
    return [(name, value) for name, value in pairs]


def _header_text(value: bytes) -> str:
    stripped = value.strip(b" \t")
    try:
        return stripped.decode()
    except UnicodeDecodeError:
        return stripped.decode("latin-1")
