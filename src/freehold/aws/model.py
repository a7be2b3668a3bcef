"""An AWS service as plain data: operations, shapes and their constraints, compiled from botocore's service models.

For: the other modules of `aws`, in processes that may not import botocore as well: `Service` goes over a wire
(`to_data`, `from_data`). Not for doing anything with requests. Invariant: an operation that uses a trait which this
package does not implement is not in a Service, so it is never misread; every name that a shape refers to exists.

Source of the traits: botocore's `service-2.json` of services with the `rest-json` protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from freehold.aws import model_files

PROTOCOL: Final = "rest-json"

Location = Literal["body", "uri", "querystring", "header", "statusCode"]
ShapeType = Literal[
    "structure", "list", "map", "string", "blob", "boolean", "integer", "long", "float", "double", "timestamp"
]
TimestampFormat = Literal["", "iso8601", "rfc822", "unixTimestamp"]

_KNOWN_SHAPE_TRAITS: Final = frozenset(
    {
        *("type", "members", "required", "member", "key", "value", "min", "max", "pattern", "enum", "union"),
        *("sensitive", "payload", "streaming", "eventstream", "event", "document", "timestampFormat"),
        *("error", "exception", "fault", "retryable", "synthetic"),
        # Nothing to do for these: words for people, and how client libraries name or box things.
        *("documentation", "box", "deprecated", "deprecatedMessage", "deprecatedSince", "wrapper", "locationName"),
    }
)
_KNOWN_MEMBER_TRAITS: Final = frozenset(
    {
        *("shape", "location", "locationName", "idempotencyToken", "timestampFormat", "streaming", "sensitive"),
        *("eventpayload", "documentation", "box", "deprecated", "deprecatedMessage", "deprecatedSince"),
    }
)


class UnsupportedModel(Exception):
    """The service model says something that this package does not implement."""


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """A member of a structure: where it is on the wire, and what it is."""

    shape: str
    wire_name: str
    """Its name at its location: JSON key, header, query parameter, label of the path."""
    location: Location = "body"
    timestamp_format: TimestampFormat = ""
    """Of a timestamp, when it is not that of its location or shape."""
    idempotency_token: bool = False
    sensitive: bool = False
    streaming: bool = False


class Shape(msgspec.Struct, frozen=True, omit_defaults=True):
    """A type of the model. Bounds are of characters, bytes (blob), elements, entries or the number itself."""

    name: str
    type: ShapeType
    members: dict[str, Member] = {}
    """Of a structure, by the model's member names."""
    required: list[str] = []
    element: str = ""
    """Of a list: the shape of its elements."""
    key: str = ""
    value: str = ""
    """Of a map: the shapes of its keys and values."""
    min: float | int | None = None
    max: float | int | None = None
    pattern: str | None = None
    enum: list[str] = []
    union: bool = False
    document: bool = False
    """Any JSON value, whatever `type` says."""
    sensitive: bool = False
    payload: str = ""
    """Of an input, output or error: the member that is the whole body."""
    streaming: bool = False
    event_stream: bool = False
    timestamp_format: TimestampFormat = ""
    error_code: str = ""
    """Of an error: its name on the wire."""
    error_status: int = 0
    retryable: bool = False


class Operation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One operation. `input`, `output` and `errors` name shapes; the first two are empty when there is none."""

    name: str
    method: str
    uri: str
    """The template of its path, as `/runtimes/{agentRuntimeId}/`."""
    status: int
    """Of its answer, unless the output has a member for it."""
    input: str = ""
    output: str = ""
    errors: list[str] = []


class Service(msgspec.Struct, frozen=True, omit_defaults=True):
    """A compiled service model: everything by name, so that shapes may refer to themselves."""

    name: str
    api_version: str
    signing_name: str
    operations: dict[str, Operation]
    shapes: dict[str, Shape]
    left_out: dict[str, str] = {}
    """Operations of the model that this package can't serve, and why: botocore may be newer than this package."""

    def to_data(self) -> dict[str, Any]:
        """As dicts, lists, strings and numbers, for msgpack or JSON; what is default is left out."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Service:
        """The service that `to_data` wrote. Raises msgspec.ValidationError for anything else."""
        return msgspec.convert(data, cls)

    def subset(self, operations: Iterable[str]) -> Service:
        """The service with these operations only, and what they need. Raises KeyError for one it does not have."""
        kept = {name: self.operations[name] for name in operations}
        shapes: dict[str, Shape] = {}
        waiting = [
            root for operation in kept.values() for root in (operation.input, operation.output, *operation.errors)
        ]
        while waiting:
            name = waiting.pop()
            if name and name not in shapes:
                shape = shapes[name] = self.shapes[name]
                waiting += [member.shape for member in shape.members.values()]
                waiting += [shape.element, shape.key, shape.value]
        return Service(self.name, self.api_version, self.signing_name, kept, shapes)


def load(service_name: str, operations: Iterable[str] | None = None) -> Service:
    """Compile a service from botocore's model: the operations named, or all that can be (`left_out` has the others).

    Raises UnsupportedModel when one that was named is unknown or can't be compiled.
    """
    try:
        raw = model_files.read(service_name)
    except model_files.NoModel as missing:
        raise UnsupportedModel(str(missing)) from missing
    return compile_model(service_name, raw, operations)


def compile_model(name: str, raw: Mapping[str, Any], operations: Iterable[str] | None = None) -> Service:
    """Compile the JSON document of a service model. Raises UnsupportedModel."""
    metadata = raw["metadata"]
    if metadata["protocol"] != PROTOCOL:
        raise UnsupportedModel(f"{name} speaks {metadata['protocol']}, not {PROTOCOL}")
    wanted = sorted(raw["operations"]) if operations is None else list(operations)
    unknown = [operation for operation in wanted if operation not in raw["operations"]]
    if unknown:
        raise UnsupportedModel(f"{name} has no operation {', '.join(unknown)}; a newer botocore may have")
    compiled: dict[str, Operation] = {}
    shapes: dict[str, Shape] = {}
    left_out: dict[str, str] = {}
    for operation in wanted:
        try:
            made = _operation(operation, raw["operations"][operation])
            _add_shapes(shapes, (made.input, made.output, *made.errors), raw["shapes"])
        except UnsupportedModel as unsupported:
            if operations is not None:
                raise
            left_out[operation] = str(unsupported)
        else:
            compiled[operation] = made
    return Service(
        name=name,
        api_version=metadata["apiVersion"],
        signing_name=metadata.get("signingName", metadata["endpointPrefix"]),
        operations=compiled,
        shapes=shapes,
        left_out=left_out,
    )


# -- parts --------------------------------------------------------------------------------------------------------


def _operation(name: str, raw: Mapping[str, Any]) -> Operation:
    http = raw["http"]
    if "?" in http["requestUri"] or "#" in http["requestUri"]:
        raise UnsupportedModel(f"the path of {name} has a query: {http['requestUri']}")
    if raw.get("endpoint"):
        raise UnsupportedModel(f"{name} has a host prefix")
    return Operation(
        name=name,
        method=http["method"],
        uri=http["requestUri"],
        status=http.get("responseCode", 200),
        input=_shape_name(raw, "input"),
        output=_shape_name(raw, "output"),
        errors=[error["shape"] for error in raw.get("errors", ())],
    )


def _shape_name(raw: Mapping[str, Any], part: str) -> str:
    return raw[part]["shape"] if part in raw else ""


def _add_shapes(known: dict[str, Shape], roots: Iterable[str], raw: Mapping[str, Mapping[str, Any]]) -> None:
    """Add to `known` all that `roots` reach; or nothing, when one of them can't be compiled."""
    added: dict[str, Shape] = {}
    waiting = [root for root in roots if root]
    while waiting:
        name = waiting.pop()
        if name not in known and name not in added:
            _check_locations(name, raw)
            added[name] = _shape(name, raw[name])
            waiting.extend(_referred(raw[name]))
    known.update(added)


def _check_locations(name: str, raw: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse members outside the body that are more than one value, lists in the query apart."""
    for member_name, member in raw[name].get("members", {}).items():
        location = member.get("location", "body")
        shape = raw[member["shape"]]
        if location == "querystring" and shape["type"] == "list":
            shape = raw[shape["member"]["shape"]]
        if location != "body" and shape["type"] in ("structure", "list", "map"):
            raise UnsupportedModel(f"{name}.{member_name} is a {shape['type']} in the {location}")


def _referred(raw: Mapping[str, Any]) -> Iterator[str]:
    for member in raw.get("members", {}).values():
        yield member["shape"]
    for part in ("member", "key", "value"):
        if part in raw:
            yield raw[part]["shape"]


def _shape(name: str, raw: Mapping[str, Any]) -> Shape:
    _refuse_unknown(name, raw, _KNOWN_SHAPE_TRAITS)
    for part in ("member", "key", "value"):
        if set(raw.get(part, {})) - {"shape", "documentation", "box"}:
            raise UnsupportedModel(f"the {part} of {name} has traits of its own")
    error = raw.get("error", {})
    is_error = bool(raw.get("exception"))
    fields: dict[str, Any] = {
        "name": name,
        "type": raw["type"],
        "members": {member: _member(name, member, of) for member, of in raw.get("members", {}).items()},
        "required": list(raw.get("required", ())),
        "element": _shape_name(raw, "member"),
        "key": _shape_name(raw, "key"),
        "value": _shape_name(raw, "value"),
        "min": raw.get("min"),
        "max": raw.get("max"),
        "pattern": raw.get("pattern"),
        "enum": list(raw.get("enum", ())),
        "union": bool(raw.get("union")),
        "document": bool(raw.get("document")),
        "sensitive": bool(raw.get("sensitive")),
        "payload": raw.get("payload", ""),
        "streaming": bool(raw.get("streaming")),
        "event_stream": bool(raw.get("eventstream")),
        "timestamp_format": raw.get("timestampFormat", ""),
        "error_code": error.get("code", name) if is_error else "",
        "error_status": error.get("httpStatusCode", 500 if raw.get("fault") else 400) if is_error else 0,
        "retryable": "retryable" in raw,
    }
    try:
        return msgspec.convert(fields, Shape)
    except msgspec.ValidationError as error:
        raise UnsupportedModel(f"{name}: {error}") from error


def _member(shape: str, name: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    _refuse_unknown(f"{shape}.{name}", raw, _KNOWN_MEMBER_TRAITS)
    location = raw.get("location", "body")
    wire_name = raw.get("locationName", name)
    return {
        "shape": raw["shape"],
        # Header names are compared in lower case, as servers hand them over.
        "wire_name": wire_name.lower() if location == "header" else wire_name,
        "location": location,
        "timestamp_format": raw.get("timestampFormat", ""),
        "idempotency_token": bool(raw.get("idempotencyToken")),
        "sensitive": bool(raw.get("sensitive")),
        "streaming": bool(raw.get("streaming")),
    }


def _refuse_unknown(name: str, raw: Mapping[str, Any], known: frozenset[str]) -> None:
    unknown = sorted(set(raw) - known)
    if unknown:
        raise UnsupportedModel(f"{name} has the unknown trait {', '.join(unknown)}")
