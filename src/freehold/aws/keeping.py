"""Whether a value keeps to its shape's constraints, yes or no: what nearly every request is asked, and answers yes.

For: `aws.validate`, which says what is wrong when something is. Not for telling it. Invariant: yes is said only where
`validate` finds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from freehold.aws.model import Service, Shape
from freehold.aws.patterns import Untranslatable, compile_pattern

Keeps = Callable[[Any], bool]


class Keeping:
    """The checks of one service's shapes. Each is made when it is first asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._made: dict[str, Keeps] = {}

    def of(self, name: str) -> Keeps:
        """For values of the shape of this name."""
        made = self._made.get(name)
        if made is None:
            # Until it is made, and within itself, it is looked up where a value is met.
            self._made[name] = lambda value: self._made[name](value)
            made = self._made[name] = self._make(self._service.shapes[name])
        return made

    def _make(self, shape: Shape) -> Keeps:
        if shape.document:
            return _anything
        match shape.type:
            case "structure":
                return self._structure(shape)
            case "list":
                return self._list(shape)
            case "map":
                return self._map(shape)
            case "string":
                return _string(shape)
            case "blob":
                return _sized(shape)
            case "integer" | "long" | "float" | "double":
                least, most = _bounds(shape)
                return lambda value: least <= value <= most
            case "boolean" | "timestamp":
                return _anything

    def _structure(self, shape: Shape) -> Keeps:
        required, is_union = shape.required, shape.union
        members = {name: self.of(member.shape) for name, member in shape.members.items()}

        def keeps(value: dict[str, Any]) -> bool:
            for name in required:
                if name not in value:
                    return False
            if is_union and len(value) != 1:
                return False
            return all(members[name](inner) for name, inner in value.items())

        return keeps

    def _list(self, shape: Shape) -> Keeps:
        sized, element = _sized(shape), self.of(shape.element)
        return lambda value: sized(value) and all(map(element, value))

    def _map(self, shape: Shape) -> Keeps:
        sized, key, inner = _sized(shape), self.of(shape.key), self.of(shape.value)
        return lambda value: sized(value) and all(map(key, value)) and all(map(inner, value.values()))


def _anything(_: Any) -> bool:
    return True


def _nothing(_: Any) -> bool:
    return False


def _bounds(shape: Shape) -> tuple[float, float]:
    return -math.inf if shape.min is None else shape.min, math.inf if shape.max is None else shape.max


def _sized(shape: Shape) -> Keeps:
    least, most = _bounds(shape)
    return lambda value: least <= len(value) <= most


def _string(shape: Shape) -> Keeps:
    least, most = _bounds(shape)
    allowed = frozenset(shape.enum) if shape.enum else None
    if shape.pattern is None:
        return lambda value: least <= len(value) <= most and (allowed is None or value in allowed)
    try:
        matches = compile_pattern(shape.pattern).matches
    except Untranslatable:
        return _nothing  # nothing is let through unchecked
    return lambda value: least <= len(value) <= most and (allowed is None or value in allowed) and matches(value)
