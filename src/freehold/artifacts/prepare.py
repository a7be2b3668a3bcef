"""Makes a bundle that can be started of an agent's code: fetch, check, unpack, compile, and keep by digest.

Not for running anything of it, nor for where bundles lie and how long (`cache`). Invariant: what is checked is what is
kept: a private copy of the artifact, whose digest is the bundle's name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from anyio import to_thread

from freehold.artifacts import binaries, entry_points, interpreters, unpack
from freehold.artifacts.base import CodeArtifact, Prepared, S3Object
from freehold.artifacts.cache import BundleCache
from freehold.artifacts.compiling import compile_bundle
from freehold.artifacts.interpreters import Interpreters, Language
from freehold.artifacts.source import Source, Stamp
from freehold.artifacts.threads import in_thread
from freehold.domain.errors import QuotaExceeded
from freehold.domain.launch import Interpreter, Program

MAX_KNOWN: Final = 1024
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)

log = structlog.get_logger(__name__)


class Preparer:
    """Use `prepare` from one event loop, that of the `cache`."""

    def __init__(self, source: Source, cache: BundleCache, interpreters: Interpreters) -> None:
        self._source = source
        self._cache = cache
        self._interpreters = interpreters
        self._known = _Known()

    def look(self, artifact: CodeArtifact) -> Prepared | None:
        """The bundle, if it is certain without reading the object that it is there already; as `prepare` gives it.

        Raises ArtifactRejected unless the object exists and can be read; Unavailable if that can't be known now.
        Blocking: for worker threads.
        """
        stamp = self._source.check(artifact.source)
        known = None if stamp is None else self._known.get((artifact, stamp))
        if known is None or not self._cache.hold(_name(known)):
            return None
        if not os.access(known.program.interpreter.executable, os.X_OK):
            self.release(known)
            return None
        return known

    async def prepare(self, artifact: CodeArtifact) -> Prepared:
        """The artifact's bundle, made if there is none yet. It stays for an hour at least, or until `release`.

        Raises ArtifactRejected when the artifact is at fault, QuotaExceeded when the disk is full, OSError for other
        faults of the server. Cancelling it, like any failure, leaves nothing behind.
        """
        start = await in_thread(lambda _: self._start(artifact))
        async with self._cache.temporary() as copy:
            digest, stamp = await in_thread(lambda stop: self._fetch(artifact.source, copy, stop))
            async with self._cache.bundle(digest, artifact.runtime) as bundle:
                if not await to_thread.run_sync(bundle.is_dir):
                    await self._make(copy, bundle, start)
                program = await in_thread(lambda _: start.program(bundle))
        prepared = Prepared(digest=digest, code_dir=str(bundle), program=program)
        if stamp is not None:
            self._known.put((artifact, stamp), prepared)
        return prepared

    def release(self, prepared: Prepared) -> None:
        """The bundle's use is recorded, or it is not used: from here on it may be removed when nothing uses it."""
        self._cache.release(_name(prepared))

    def _start(self, artifact: CodeArtifact) -> _Start:
        interpreter = self._interpreters.find(artifact.runtime)
        return _Start(
            interpreter=interpreter,
            language=interpreters.wanted(artifact.runtime).language,
            release=self._interpreters.release(interpreter),
            entry_point=artifact.entry_point,
        )

    async def _make(self, copy: Path, bundle: Path, start: _Start) -> None:
        async with self._cache.temporary() as making:
            await in_thread(lambda stop: _unpack(copy, making, start, stop))
            if start.language == "python":
                await compile_bundle(start.interpreter, making)
            with _disk_full_explained():
                await self._cache.put(making, bundle)
        log.info("artifact.prepared", bundle=bundle.name)

    def _fetch(self, source: S3Object, copy: Path, stop: threading.Event) -> tuple[str, Stamp | None]:
        """Copy the object, whose original may change, and answer with the copy's digest and stamp."""
        with _disk_full_explained():
            stamp = self._source.fetch(source, copy, stop)
        with copy.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), stamp


def _name(prepared: Prepared) -> str:
    """Of the bundle, in the cache."""
    return prepared.code_dir.rpartition("/")[2]


class _Known:
    """What was prepared of which bytes, the latest of it. For several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[CodeArtifact, Stamp], Prepared] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, of: tuple[CodeArtifact, Stamp]) -> Prepared | None:
        with self._lock:
            found = self._kept.get(of)
            if found is not None:
                self._kept.move_to_end(of)
            return found

    def put(self, of: tuple[CodeArtifact, Stamp], prepared: Prepared) -> None:
        with self._lock:
            self._kept[of] = prepared
            if len(self._kept) > MAX_KNOWN:
                self._kept.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Start:
    """How the version wants its bundle to be started."""

    interpreter: Interpreter
    language: Language
    release: str
    entry_point: tuple[str, ...]

    def program(self, root: Path) -> Program:
        """Raises ArtifactRejected unless the entry point is there."""
        return entry_points.program(root, self.entry_point, self.interpreter, self.language)


def _unpack(copy: Path, making: Path, start: _Start, stop: threading.Event) -> None:
    """Unpack the zip and check that it can be run here."""
    with _disk_full_explained(), copy.open("rb") as file:
        unpack.unpack(file, os.fstat(file.fileno()).st_size, making, stop)
    binaries.check(making, start.interpreter.executable)
    if start.language == "node":
        from freehold.artifacts import engines  # what it needs is not needed to start

        engines.check(making, start.release)
    start.program(making)


@contextlib.contextmanager
def _disk_full_explained() -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise QuotaExceeded("The server's disk is full") from error
        raise
