"""From method and raw path to an operation of a service.

For: any process that takes requests. Not for queries, headers or bodies (`aws.parse`). Invariant: each segment of the
path is decoded once, after it was told from its neighbours, so an encoded `/` never separates; a path that AWS's
signers would normalise (`//`, `.`, `..`) names nothing, so what is routed is what was signed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from freehold.aws.model import Operation, Service, UnsupportedModel

_LABEL: Final = re.compile(r"\{([A-Za-z0-9_]+)(\+?)\}")
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class NoRoute(Exception):
    """No operation answers. `message` may be shown to the caller."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UnknownPath(NoRoute):
    """No operation has this path."""


class WrongMethod(NoRoute):
    """There are operations with this path, but for other methods: `allowed`, sorted."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__(f"Method Not Allowed. Use {' or '.join(allowed)}.")
        self.allowed = allowed


class BadPath(NoRoute):
    """The path is not percent-encoded UTF-8."""


@dataclass(frozen=True, slots=True)
class Match:
    """An operation and the decoded labels of its path, by their names in the template."""

    operation: Operation
    path_params: dict[str, str]


@dataclass(slots=True)
class _Node:
    """Where a path may go on: a tree as deep as the longest template, whatever requests look like."""

    literals: dict[bytes, _Node] = field(default_factory=dict["bytes", "_Node"])
    label: _Node | None = None
    greedy: dict[int, _Node] = field(default_factory=dict["int", "_Node"])
    """A label that takes several segments, by the number of segments that must follow it."""
    ends: dict[str, tuple[Operation, tuple[str, ...]]] = field(
        default_factory=dict["str", "tuple[Operation, tuple[str, ...]]"]
    )
    """By method: the operation, and the names of its labels in order."""


class Router:
    """Routes of all operations of a service. A final slash never counts, as with AWS."""

    def __init__(self, service: Service) -> None:
        self._root = _Node()
        for operation in service.operations.values():
            self._add(operation)

    def match(self, method: str, raw_path: bytes) -> Match:
        """The operation of `method` and `raw_path` (as received, without the query).

        Literals go before labels. Raises UnknownPath, WrongMethod, BadPath.
        """
        segments = raw_path.removesuffix(b"/").split(b"/")[1:]
        if raw_path[:1] != b"/" or any(segment in (b"", b".", b"..") for segment in segments):
            raise UnknownPath("No operation has this path.")
        allowed: set[str] = set()
        for node, labels in _walk(self._root, segments, 0):
            end = node.ends.get(method)
            if end is not None:
                operation, names = end
                return Match(operation, {name: _decoded(raw) for name, raw in zip(names, labels, strict=True)})
            allowed.update(node.ends)
        if allowed:
            raise WrongMethod(tuple(sorted(allowed)))
        raise UnknownPath("No operation has this path.")

    def _add(self, operation: Operation) -> None:
        node = self._root
        names: list[str] = []
        parts = [part for part in operation.uri.split("/") if part]
        for at, part in enumerate(parts):
            label = _LABEL.fullmatch(part)
            if label is None:
                if "{" in part or "}" in part:
                    raise UnsupportedModel(f"{operation.name}: a label is less than a segment in {operation.uri}")
                node = node.literals.setdefault(part.encode(), _Node())
                continue
            names.append(label[1])
            if label[2]:
                node = node.greedy.setdefault(len(parts) - at - 1, _Node())
            else:
                node.label = node.label or _Node()
                node = node.label
        if operation.method in node.ends:
            other = node.ends[operation.method][0].name
            raise UnsupportedModel(f"{operation.name} and {other} have the same method and path")
        node.ends[operation.method] = (operation, tuple(names))


def _walk(node: _Node, segments: list[bytes], at: int) -> Iterator[tuple[_Node, tuple[bytes, ...]]]:
    """Every end that the segments from `at` on lead to, the most literal first, with the labels on the way."""
    if at == len(segments):
        if node.ends:
            yield node, ()
        return
    here = segments[at]
    if here in node.literals:
        yield from _walk(node.literals[here], segments, at + 1)
    if node.label is not None:
        for end, labels in _walk(node.label, segments, at + 1):
            yield end, (here, *labels)
    for following, after in node.greedy.items():
        until = len(segments) - following
        if until > at:
            for end, labels in _walk(after, segments, until):
                yield end, (b"/".join(segments[at:until]), *labels)


def _decoded(raw: bytes) -> str:
    if _BROKEN_ESCAPE.search(raw):
        raise BadPath("The path has a '%' that is not followed by two hexadecimal digits.")
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise BadPath("The path is not UTF-8 when its percent-encoding is removed.") from None
