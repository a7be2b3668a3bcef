"""The seam to where code zips lie, so that preparing one knows neither local buckets nor S3.

Not for writing objects (`control.buckets`). Invariant: a source raises ArtifactRejected when the object is at fault,
and whatever it likes when the server is.
"""

from __future__ import annotations

from typing import BinaryIO, Protocol

from freehold.artifacts.base import S3Object


class Source(Protocol):
    """A place that objects are read from. Blocking: for worker threads."""

    def open(self, source: S3Object) -> BinaryIO:
        """The object's bytes from its beginning. Raises ArtifactRejected when it isn't there or can't be read."""
        ...


def printable(text: str, longest: int = 200) -> str:
    """A customer's text as it may stand in a message: of bounded length, and nothing that moves a cursor."""
    shown = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in shown)


def uri(source: S3Object) -> str:
    """`s3://bucket/key`, for messages."""
    return f"s3://{printable(source.bucket)}/{printable(source.key, 1024)}"
