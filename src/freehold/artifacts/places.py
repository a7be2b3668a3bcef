"""Where a bucket is: one of the server's own, or in S3.

Not for reading either. Invariant: a bucket of the server's own hides one of the same name in S3, so a setting or an
outage elsewhere never changes what a local name means.
"""

from __future__ import annotations

import threading
from pathlib import Path

from freehold.artifacts.base import S3Object
from freehold.artifacts.local_bucket import LocalBuckets
from freehold.artifacts.source import Source, Stamp


class Places:
    """Local buckets first, then `others`, as one `artifacts.source.Source`."""

    def __init__(self, local: LocalBuckets, others: Source) -> None:
        self._local = local
        self._others = others

    def check(self, source: S3Object) -> Stamp | None:
        """Raise ArtifactRejected unless the object is there, can be read and is small enough."""
        return self._of(source).check(source)

    def fetch(self, source: S3Object, copy: Path, stop: threading.Event) -> Stamp | None:
        """Write the object's bytes to `copy`. Raises ArtifactRejected, Stopped."""
        return self._of(source).fetch(source, copy, stop)

    def _of(self, source: S3Object) -> Source:
        return self._local if self._local.has(source.bucket) else self._others
