"""Preparers over real directories, and what tests put into buckets."""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Collection
from pathlib import Path

from freehold.artifacts.cache import BundleCache
from freehold.artifacts.interpreters import Interpreters
from freehold.artifacts.local_bucket import LocalBuckets
from freehold.artifacts.places import Places
from freehold.artifacts.prepare import Preparer
from freehold.artifacts.s3 import S3

GIB = 1024**3


class Using:
    """Says which digests are in use, as control does from store and warden."""

    def __init__(self, digests: Collection[str] = ()) -> None:
        self.digests = set(digests)
        self.faults: list[Exception] = []
        """Raised by the next calls, one each."""

    async def __call__(self) -> frozenset[str]:
        if self.faults:
            raise self.faults.pop(0)
        return frozenset(self.digests)


@functools.cache
def interpreters() -> Interpreters:
    """Those of this host, each asked once: that takes a tenth of a second, and several where there is none."""
    return Interpreters()


def opened_cache(root: Path, using: Using | None = None, *, max_bytes: int = 10 * GIB) -> BundleCache:
    cache = BundleCache(root, max_bytes=max_bytes, in_use=using or Using())
    cache.open()
    return cache


def preparer_of(buckets: Path, cache: BundleCache, interpreters: Interpreters, s3: S3 | None = None) -> Preparer:
    others = s3 or S3((), region="us-east-1")
    return Preparer(Places(LocalBuckets(buckets), others), cache, interpreters)


def zipped(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()
