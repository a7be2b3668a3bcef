"""Makes a bundle that can be started of an agent's code: fetch, check, unpack, compile, and keep by digest.

Not for running anything of it. A bundle is `<root>/<sha256 of the zip>-<runtime>`; it is made under another name and
renamed into place. Invariant: a bundle that has its name is complete, sealed and never changed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import structlog
from anyio import to_thread

from freehold.artifacts import binaries, entry_points, interpreters, trees, unpack
from freehold.artifacts.base import ArtifactRejected, CodeArtifact, Prepared, S3Object
from freehold.artifacts.compiling import compile_bundle
from freehold.artifacts.interpreters import Interpreters, Language
from freehold.artifacts.local_bucket import LocalBuckets
from freehold.artifacts.source import Source
from freehold.domain import limits
from freehold.domain.errors import QuotaExceeded
from freehold.domain.launch import Interpreter, Program

_T = TypeVar("_T")

_BUNDLE = re.compile(r"([0-9a-f]{64})-[a-z0-9_]+")
_TEMPORARY: Final = ".tmp-"
_CHUNK: Final = 1024 * 1024
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_THERE_ALREADY: Final = (errno.EEXIST, errno.ENOTEMPTY)

log = structlog.get_logger(__name__)


class Preparer:
    """Use `prepare` from one event loop. `open` comes first."""

    def __init__(self, buckets_root: Path, artifacts_root: Path, interpreters: Interpreters) -> None:
        self._source: Source = LocalBuckets(buckets_root)
        self._root = artifacts_root
        self._interpreters = interpreters
        self._locks: dict[str, _Lock] = {}

    def open(self) -> None:
        """Make the directory, and remove what an earlier run did not finish. Blocking."""
        self._root.mkdir(mode=0o755, parents=True, exist_ok=True)
        for leftover in self._root.glob(f"{_TEMPORARY}*"):
            trees.remove(leftover)

    def collect(self, keep: Collection[str]) -> list[str]:
        """Remove the bundles of all digests but `keep`; answers with the digests removed. Blocking.

        For the time after `open` and before the first `prepare`: a bundle that is in the making, or prepared and not
        yet recorded by the caller, is in no list. `keep` names what sessions that still run were started from, too.
        """
        removed: list[str] = []
        for bundle in sorted(self._root.iterdir()):
            name = _BUNDLE.fullmatch(bundle.name)
            if name is not None and name[1] not in keep:
                # Out of the way first: a bundle that has its name is complete.
                doomed = self._temporary_path()
                bundle.rename(doomed)
                trees.remove(doomed)
                removed.append(name[1])
        return removed

    def check_readable(self, source: S3Object) -> None:
        """Raise ArtifactRejected unless the object exists and can be read. Blocking."""
        self._source.open(source).close()

    async def prepare(self, artifact: CodeArtifact) -> Prepared:
        """The artifact's bundle, made if there is none yet.

        Raises ArtifactRejected when the artifact is at fault, QuotaExceeded when the disk is full, OSError for other
        faults of the server. Cancelling it, like any failure, leaves nothing behind.
        """
        start = _Start(
            interpreter=await _in_thread(lambda _: self._interpreters.find(artifact.runtime)),
            language=interpreters.wanted(artifact.runtime).language,
            entry_point=artifact.entry_point,
        )
        async with self._temporary() as copy:
            digest = await _in_thread(lambda stop: self._fetch(artifact.source, copy, stop))
            bundle = self._root / f"{digest}-{artifact.runtime.lower()}"
            async with self._locked(bundle.name):
                if not await to_thread.run_sync(bundle.is_dir):
                    await self._make(copy, bundle, start)
        program = await _in_thread(lambda _: start.program(bundle))
        return Prepared(digest=digest, code_dir=str(bundle), program=program)

    async def _make(self, copy: Path, bundle: Path, start: _Start) -> None:
        async with self._temporary() as making:
            await _in_thread(lambda stop: _unpack(copy, making, start, stop))
            if start.language == "python":
                await compile_bundle(start.interpreter, making)
            await _in_thread(lambda _: _finish(making, bundle))
        log.info("artifact.prepared", bundle=bundle.name)

    def _fetch(self, source: S3Object, copy: Path, stop: threading.Event) -> str:
        """Copy the object, whose original may change while it is read, and answer with the copy's digest."""
        digest = hashlib.sha256()
        left = limits.MAX_ZIP_BYTES
        with _disk_full_explained(), self._source.open(source) as file, copy.open("xb") as out:
            os.fchmod(out.fileno(), 0o600)
            while data := file.read(_CHUNK):
                if stop.is_set():
                    raise unpack.Stopped
                left -= len(data)
                if left < 0:
                    raise ArtifactRejected(f"Your artifact has more than {limits.MAX_ZIP_BYTES} bytes, the maximum.")
                digest.update(data)
                out.write(data)
        return digest.hexdigest()

    def _temporary_path(self) -> Path:
        return self._root / f"{_TEMPORARY}{secrets.token_hex(16)}"

    @contextlib.asynccontextmanager
    async def _temporary(self) -> AsyncGenerator[Path]:
        """A name for a file or tree, which is removed at the end if something bears it."""
        path = self._temporary_path()
        try:
            yield path
        finally:
            await _in_thread(lambda _: trees.remove(path))

    @contextlib.asynccontextmanager
    async def _locked(self, name: str) -> AsyncGenerator[None]:
        """Work on the bundle `name` alone."""
        entry = self._locks.setdefault(name, _Lock())
        entry.users += 1
        try:
            async with entry.lock:
                yield
        finally:
            entry.users -= 1
            if entry.users == 0:
                del self._locks[name]


@dataclass(frozen=True, slots=True)
class _Start:
    """How the version wants its bundle to be started."""

    interpreter: Interpreter
    language: Language
    entry_point: tuple[str, ...]

    def program(self, root: Path) -> Program:
        """Raises ArtifactRejected unless the entry point is there."""
        return entry_points.program(root, self.entry_point, self.interpreter, self.language)


@dataclass(slots=True)
class _Lock:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


def _unpack(copy: Path, making: Path, start: _Start, stop: threading.Event) -> None:
    """Unpack the zip and check that it can be run here."""
    with _disk_full_explained(), copy.open("rb") as file:
        unpack.unpack(file, os.fstat(file.fileno()).st_size, making, stop)
    binaries.check(making, start.interpreter.executable)
    start.program(making)


def _finish(making: Path, bundle: Path) -> None:
    with _disk_full_explained():
        trees.seal(making)
        try:
            making.rename(bundle)
        except OSError as error:
            # Another process made the same bundle meanwhile, of the same bytes.
            if error.errno not in _THERE_ALREADY:
                raise


@contextlib.contextmanager
def _disk_full_explained() -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise QuotaExceeded("The server's disk is full") from error
        raise


async def _in_thread(work: Callable[[threading.Event], _T]) -> _T:
    """Run `work` in a worker thread, and be back only when it has ended: what it makes must not outlive its removal.

    On cancellation the event that `work` got is set, which asks it to end early.
    """
    stop = threading.Event()
    running = asyncio.ensure_future(to_thread.run_sync(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        while not running.done():
            # A further cancellation changes nothing: the first one is raised below.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # it is moot: nobody waits for this work any more
        raise
