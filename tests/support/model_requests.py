"""Requests made from botocore's service models: valid ones, and ones that break a single constraint each.

The oracle is botocore's model as botocore reads it, and Python's own `re`; nothing of Freehold's reading of the model
is used. What HTTP can't express is left out and counted: a label of the path that is missing or empty.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_ACCOUNT = "111122223333"
_SAMPLES = (
    "agent",
    "agent-0123456789",
    "1",
    _ACCOUNT,
    "a" * 33,
    f"arn:aws:iam::{_ACCOUNT}:role/agent",
    f"arn:aws:bedrock-agentcore:eu-central-1:{_ACCOUNT}:runtime/agent-0123456789",
    f"arn:aws:bedrock-agentcore:eu-central-1:{_ACCOUNT}:capacity-provider/agent-0123456789",
    f"arn:aws:secretsmanager:eu-central-1:{_ACCOUNT}:secret:ca",
    f"arn:aws:s3files:eu-central-1:{_ACCOUNT}:file-system/fs-{'0' * 17}/access-point/fsap-{'0' * 17}",
    f"arn:aws:elasticfilesystem:eu-central-1:{_ACCOUNT}:access-point/fsap-{'0' * 17}",
    f"rcfg-{'0' * 17}",
    "sg-01234567",
    "subnet-01234567",
    "vpc-01234567",
    "s3://bucket/ca.pem",
    "/mnt/data",
    "/path",
    "https://example.com/.well-known/openid-configuration",
    "https://example.com/back",
    f"{_ACCOUNT}.dkr.ecr.eu-central-1.amazonaws.com/agent:1",
)
_WRONG = ("!", "\u00e9", " ", '"', "a b", "-", "/", "x" * 30 + "!")
_WRONG_TYPES: dict[str, Any] = {"string": 5, "integer": "x", "boolean": "x"}


@dataclass(frozen=True)
class Violation:
    """A request that breaks one constraint: of which member, as AWS names it, and which."""

    operation: str
    member: str
    constraint: str
    params: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.operation}.{self.member} {self.constraint}"


class NoSample(Exception):
    """The model has a constraint for which there is no sample here: add one."""


class Requests:
    """Requests of one operation (botocore's OperationModel). `base` is kept in every one, where it isn't broken."""

    def __init__(self, operation: Any, base: dict[str, Any] | None = None) -> None:
        self.operation = operation
        self.inexpressible = 0
        shape = operation.input_shape
        self._shape = shape
        self._base = base or {}

    def valid(self) -> dict[str, Any]:
        """With the required members alone."""
        made = self._sample(self._shape) | self._base
        if "clientToken" in self._shape.members:
            # boto3 makes one itself; a fixed one would be a replay.
            made["clientToken"] = str(uuid.uuid4())
        return made

    def violations(self) -> Iterator[Violation]:
        """One for each constraint of each member, down to the last."""
        self.inexpressible = 0
        for member, constraint, params in self._structure(self._shape, "", frozenset()):
            whole = params
            for name, value in self.valid().items():
                if name not in whole and not (constraint == "required" and member == name):
                    whole[name] = value
            yield Violation(self.operation.name, member, constraint, whole)

    # -- walking --------------------------------------------------------------------------------------------------

    def _structure(self, shape: Any, path: str, above: frozenset[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(member, constraint, structure that breaks it)."""
        if shape.name in above:
            return
        above |= {shape.name}
        union = bool(getattr(shape, "is_tagged_union", False))
        for name, member in shape.members.items():
            where = f"{path}.{name}" if path else name
            rest = {} if union or not path else self._sample(shape)
            rest.pop(name, None)
            if name in shape.required_members:
                if member.serialization.get("location") == "uri":
                    self.inexpressible += 1
                else:
                    yield where, "required", dict(rest)
            for inner, constraint, value in self._value(member, where, above):
                if member.serialization.get("location") == "uri" and value == "":
                    self.inexpressible += 1
                    continue
                yield inner, constraint, {**rest, name: value}
        if union and path:
            yield path, "union", {}
            names = list(shape.members)[:2]
            if len(names) == 2:
                yield path, "union", {name: self._sample(shape.members[name]) for name in names}

    def _value(self, shape: Any, path: str, above: frozenset[str]) -> Iterator[tuple[str, str, Any]]:
        low, high = shape.metadata.get("min"), shape.metadata.get("max")
        kind = shape.type_name
        in_body = "location" not in shape.serialization
        if kind in _WRONG_TYPES and in_body:
            yield path, "type", _WRONG_TYPES[kind]
        match kind:
            case "structure":
                yield from self._structure(shape, path, above)
            case "string":
                yield from self._string(shape, path, low, high)
            case "integer" | "long":
                if low is not None:
                    yield path, "min", low - 1
                if high is not None:
                    yield path, "max", high + 1
            case "list":
                if low:
                    yield path, "min", [self._sample(shape.member)] * (low - 1)
                if high is not None:
                    yield path, "max", [self._sample(shape.member)] * (high + 1)
                for inner, constraint, value in self._value(shape.member, f"{path}.1.member", above):
                    if constraint == "type" and not in_body:
                        continue  # in the query everything is text
                    yield inner, constraint, [value]
            case "map":
                if low:
                    yield path, "min", {f"key{n}": self._sample(shape.value) for n in range(low - 1)}
                if high is not None:
                    yield path, "max", {f"key{n}": self._sample(shape.value) for n in range(high + 1)}
                key_low, key_high = shape.key.metadata.get("min"), shape.key.metadata.get("max")
                for _, constraint, key in self._string(shape.key, path, key_low, key_high):
                    yield path, f"key {constraint}", {key: self._sample(shape.value)}
                for _, constraint, value in self._value(shape.value, path, above):
                    yield (f"{path}.value" if constraint == "type" else path), constraint, {"key": value}
            case _:
                pass

    def _string(self, shape: Any, path: str, low: int | None, high: int | None) -> Iterator[tuple[str, str, str]]:
        pattern = shape.metadata.get("pattern")
        if low:
            yield path, "min", _sized(pattern, low - 1)
        if high is not None:
            yield path, "max", _sized(pattern, high + 1)
        if shape.enum if hasattr(shape, "enum") else False:
            yield path, "enum", "NOT_A_MEMBER"
        if pattern is not None:
            yield path, "pattern", _breaking(pattern, low or 0, high or 2048)

    def _sample(self, shape: Any) -> Any:
        match shape.type_name:
            case "structure":
                if getattr(shape, "is_tagged_union", False):
                    name, member = next(iter(shape.members.items()))
                    return {name: self._sample(member)}
                return {name: self._sample(shape.members[name]) for name in shape.required_members}
            case "list":
                return [self._sample(shape.member)] * max(1, shape.metadata.get("min", 0))
            case "map":
                return {"key": self._sample(shape.value)}
            case "string":
                if getattr(shape, "enum", None):
                    return shape.enum[0]
                return _taken(shape.metadata)
            case "integer" | "long":
                return shape.metadata.get("min", 1)
            case "boolean":
                return True
            case other:
                raise NoSample(f"{shape.name} is a {other}")


def _taken(metadata: dict[str, Any]) -> str:
    pattern, low, high = metadata.get("pattern"), metadata.get("min", 0), metadata.get("max", 1 << 20)
    for sample in _SAMPLES:
        if low <= len(sample) <= high and (pattern is None or re.fullmatch(pattern, sample)):
            return sample
    raise NoSample(f"nothing is taken by {pattern} with {low} to {high} characters")


def _sized(pattern: str | None, length: int) -> str:
    """A string of that length that breaks nothing else, if the samples can be made one."""
    if pattern is not None:
        for sample in _SAMPLES:
            made = (sample + sample[-1] * length)[:length]
            if re.fullmatch(pattern, made):
                return made
    return "a" * length


def _breaking(pattern: str, low: int, high: int) -> str:
    for wrong in _WRONG:
        made = wrong if len(wrong) >= low else (wrong * low)[: max(low, len(wrong))]
        if low <= len(made) <= high and not re.fullmatch(pattern, made):
            return made
    raise NoSample(f"everything is taken by {pattern}")
