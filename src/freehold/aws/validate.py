"""Whether parameters keep to the model's constraints: every one that the model states, and all that are broken.

For: parameters that `aws.parse` made (types are right). Not for rules that the model does not hold. Invariant: no value
is ever repeated in a message, so none that is sensitive can be; lengths are checked before patterns, and patterns run
on a linear-time engine, so that checking costs no more than a constant times the parameters' size.

Message texts are those of AWS's services ("1 validation error detected: Value at 'x' failed to satisfy constraint: …"),
without the value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from freehold.aws.keeping import Keeping
from freehold.aws.model import Operation, Service, Shape
from freehold.aws.patterns import Untranslatable, compile_pattern

MAX_PROBLEMS: Final = 20
"""Told at once; checking ends with the last of them."""
REASON: Final = "FieldValidationFailed"

Problem = tuple[str, str]
"""(path of the member, what it must be)."""


class Invalid(Exception):
    """The parameters break constraints. `fields` has each member's path and what it must be, `message` all of them."""

    def __init__(self, problems: list[Problem]) -> None:
        self.reason = REASON
        self.fields: tuple[Problem, ...] = tuple(problems)
        noun = "error" if len(problems) == 1 else "errors"
        told = "; ".join(
            f"{_subject(path, problem)} failed to satisfy constraint: {problem}" for path, problem in problems
        )
        self.message = f"{len(problems)} validation {noun} detected: {told}"
        super().__init__(self.message)


_NULL: Final = "Member must not be null"


class Validator:
    """Checks parameters of one service's operations."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._keeping = Keeping(service)

    def check(self, operation: Operation, params: dict[str, Any], *, without_body: bool = False) -> None:
        """Raise Invalid unless `params` keep to the constraints of the operation's input.

        `without_body`: what would be in the body is not there yet, and not missed.
        """
        if not operation.input:
            return
        if not without_body and self._keeping.of(operation.input)(params):
            return
        shape = self._service.shapes[operation.input]
        problems: list[Problem] = []
        for problem in self._structure("", shape, params, without_body=without_body):
            problems.append(problem)
            if len(problems) == MAX_PROBLEMS:
                break
        if problems:
            raise Invalid(problems)

    def _structure(
        self, path: str, shape: Shape, value: dict[str, Any], *, without_body: bool = False
    ) -> Iterator[Problem]:
        prefix = f"{path}." if path else ""
        for name in shape.required:
            if name not in value and not (without_body and shape.members[name].location == "body"):
                yield prefix + name, _NULL
        if shape.union and len(value) != 1:
            yield path, f"Member must have exactly one of the members [{', '.join(shape.members)}]"
        for name, inner in value.items():
            yield from self._value(prefix + name, self._service.shapes[shape.members[name].shape], inner)

    def _value(self, path: str, shape: Shape, value: Any) -> Iterator[Problem]:
        if shape.document:
            return
        match shape.type:
            case "structure":
                yield from self._structure(path, shape, value)
            case "list":
                yield from self._list(path, shape, value)
            case "map":
                yield from self._map(path, shape, value)
            case "string":
                yield from _string(path, shape, value)
            case "blob":
                yield from _bounds(path, shape, len(value), "length")
            case "integer" | "long" | "float" | "double":
                yield from _bounds(path, shape, value, "value")
            case "boolean" | "timestamp":
                pass

    def _list(self, path: str, shape: Shape, value: list[Any]) -> Iterator[Problem]:
        wrong = list(_bounds(path, shape, len(value), "length"))
        yield from wrong
        if wrong:
            return
        element = self._service.shapes[shape.element]
        for number, inner in enumerate(value, 1):
            yield from self._value(f"{path}.{number}.member", element, inner)

    def _map(self, path: str, shape: Shape, value: dict[str, Any]) -> Iterator[Problem]:
        """A map's entries are told without their keys, which are the caller's and may be secret."""
        wrong = list(_bounds(path, shape, len(value), "length"))
        yield from wrong
        if wrong:
            return
        key_shape, value_shape = self._service.shapes[shape.key], self._service.shapes[shape.value]
        for key, inner in value.items():
            for _, problem in _string(path, key_shape, key):
                yield path, f"Map keys must satisfy constraint: [{problem}]"
            scalar = value_shape.type not in ("structure", "list", "map")
            for inner_path, problem in self._value(f"{path}.value", value_shape, inner):
                yield (path, f"Map value must satisfy constraint: [{problem}]") if scalar else (inner_path, problem)


def untranslatable(service: Service) -> dict[str, str]:
    """Shapes whose pattern can't be checked, and why: their values are all refused (none in the models supported)."""
    found: dict[str, str] = {}
    for shape in service.shapes.values():
        if shape.pattern is not None:
            try:
                compile_pattern(shape.pattern)
            except Untranslatable as error:
                found[shape.name] = str(error)
    return found


# -- parts --------------------------------------------------------------------------------------------------------


def _string(path: str, shape: Shape, value: str) -> Iterator[Problem]:
    wrong = list(_bounds(path, shape, len(value), "length"))
    yield from wrong
    if shape.enum and value not in shape.enum:
        yield path, f"Member must satisfy enum value set: [{', '.join(shape.enum)}]"
    if wrong or shape.pattern is None:
        return
    try:
        taken = compile_pattern(shape.pattern).matches(value)
    except Untranslatable:
        # Nothing is let through unchecked.
        taken = False
    if not taken:
        yield path, f"Member must satisfy regular expression pattern: {shape.pattern}"


def _bounds(path: str, shape: Shape, size: float, noun: str) -> Iterator[Problem]:
    if shape.min is not None and size < shape.min:
        yield path, f"Member must have {noun} greater than or equal to {shape.min}"
    if shape.max is not None and size > shape.max:
        yield path, f"Member must have {noun} less than or equal to {shape.max}"


def _subject(path: str, problem: str) -> str:
    return f"Value {'null ' if problem == _NULL else ''}at '{path}'"
