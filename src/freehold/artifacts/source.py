"""The seam to where code zips lie, so that preparing one knows neither local buckets nor S3.

Not for writing objects (`control.buckets`). Invariant: a source raises ArtifactRejected when the object is at fault or
may not be read, an error of `domain.errors` when the server or what it depends on is, and no copy is ever larger than
the object may be.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol, TypeAlias

from freehold.artifacts.base import ArtifactRejected, S3Object

Stamp: TypeAlias = tuple[int, ...]
"""What an object's bytes have in common with no others that were ever found under its name."""


class Source(Protocol):
    """A place that objects are read from. Blocking: for worker threads."""

    def check(self, source: S3Object) -> Stamp | None:
        """Raise ArtifactRejected unless the object is there, can be read and is small enough.

        The stamp of its bytes, if the place can tell it without reading them.
        """
        ...

    def fetch(self, source: S3Object, copy: Path, stop: threading.Event) -> Stamp | None:
        """Write the object's bytes to `copy`, which must not exist and becomes private; their stamp, as `check`.

        Raises ArtifactRejected, or Stopped soon after `stop` is set; then a part may lie in `copy`.
        """
        ...


class Stopped(Exception):
    """Whoever wanted this work done has gone."""


def too_large(source: S3Object, size: int) -> ArtifactRejected:
    """The refusal of an object of `size` bytes."""
    return ArtifactRejected(f"{uri(source)} has {size} bytes; the maximum is {source.max_bytes}.")


def printable(text: str, longest: int = 200) -> str:
    """A customer's text as it may stand in a message: of bounded length, and nothing that moves a cursor."""
    shown = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in shown)


def uri(source: S3Object) -> str:
    """`s3://bucket/key`, for messages."""
    return f"s3://{printable(source.bucket)}/{printable(source.key, 1024)}"
