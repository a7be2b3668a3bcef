"""Bundles on disk, kept by digest: how they get there, how much room they take, and when they go.

Not for making what is in them (`prepare`). A bundle is the directory `<root>/<sha256 of the zip>-<runtime>`; it is made
under another name and renamed into place. Invariant: a bundle that has its name is complete, durable, sealed and never
changed; one that a version, a session or a preparation under way uses is never removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from freehold.artifacts import trees
from freehold.artifacts.base import ArtifactRejected
from freehold.artifacts.threads import in_thread
from freehold.domain.errors import FreeholdError

InUse = Callable[[], Awaitable[frozenset[str]]]
"""The digests that versions and running sessions use. Raises FreeholdError when they can't be known just now."""

RECORD_LIMIT_S: Final = 3600.0
"""How long a bundle is held for whoever asked for it and does not release it."""
COLLECT_INTERVAL_S: Final = 600.0
RETRY_INTERVAL_S: Final = 5.0
MIB: Final = 1024 * 1024
_BUNDLE = re.compile(r"([0-9a-f]{64})-[a-z0-9_]+")
_TEMPORARY: Final = ".tmp-"
_THERE_ALREADY: Final = (errno.EEXIST, errno.ENOTEMPTY)

log = structlog.get_logger(__name__)


class BundleCache:
    """Use from one event loop, but for `hold` and `release`. `open` comes first; `keep_clean` runs beside."""

    def __init__(
        self, root: Path, *, max_bytes: int, in_use: InUse, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._in_use = in_use
        self._clock = clock
        self._locks: dict[str, _Lock] = {}
        self._held: dict[str, list[float]] = {}
        """Bundles that somebody has asked for and that no version may have recorded yet; since when, for each time."""
        self._released: set[str] = set()
        """Bundles let go since the collection under way began: what it knows of their use may be out of date."""
        self._sizes: dict[str, int] = {}
        self._holding = threading.Lock()
        """Around what is held: between a look at a bundle and its hold nothing removes it."""
        self._placing = asyncio.Lock()

    def open(self) -> None:
        """Make the directory, and remove what an earlier run did not finish. Blocking."""
        self._root.mkdir(mode=0o755, parents=True, exist_ok=True)
        for leftover in self._root.glob(f"{_TEMPORARY}*"):
            trees.remove(leftover)

    # -- one bundle ------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def bundle(self, digest: str, runtime: str) -> AsyncGenerator[Path]:
        """The place of a bundle, to look into and to `put` into, alone.

        From here on it isn't collected until it is released, or RECORD_LIMIT_S have passed; an exception releases it.
        """
        name = f"{digest}-{runtime.lower()}"
        with self._holding:
            self._held.setdefault(name, []).append(self._clock())
        try:
            async with self._locked(name):
                yield self._root / name
        except BaseException:
            self.release(name)
            raise

    def hold(self, name: str) -> bool:
        """Whether the bundle is there; if so, it is held as by `bundle`. From any thread."""
        with self._holding:
            if not os.path.isdir(os.path.join(self._root, name)):  # noqa: PTH112, PTH118 - a tenth of a Path's time
                return False
            self._held.setdefault(name, []).append(self._clock())
            return True

    def release(self, name: str) -> None:
        """One who asked for the bundle has recorded its use, or uses it no more. From any thread."""
        with self._holding:
            self._released.add(name)
            holders = self._held.get(name)
            if holders:
                holders.pop(0)
            if not holders:
                self._held.pop(name, None)

    async def put(self, making: Path, bundle: Path) -> None:
        """Seal what was made and give it its name, durably.

        Raises ArtifactRejected when there is no room for it, even after all that nothing uses was removed.
        """
        size = await in_thread(lambda _: trees.disk_bytes(making))
        async with self._placing:
            await self._make_room(size)
            await in_thread(lambda _: _place(making, bundle))
            self._sizes[bundle.name] = size

    @contextlib.asynccontextmanager
    async def temporary(self) -> AsyncGenerator[Path]:
        """A name for a file or tree, which is removed at the end if something bears it."""
        path = self._temporary_path()
        try:
            yield path
        finally:
            await in_thread(lambda _: trees.remove(path))

    def _temporary_path(self) -> Path:
        return self._root / f"{_TEMPORARY}{secrets.token_hex(16)}"

    @contextlib.asynccontextmanager
    async def _locked(self, name: str) -> AsyncGenerator[None]:
        entry = self._locks.setdefault(name, _Lock())
        entry.users += 1
        try:
            async with entry.lock:
                yield
        finally:
            entry.users -= 1
            if entry.users == 0:
                del self._locks[name]

    # -- all of them -----------------------------------------------------------------------------------------------

    async def keep_clean(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Collect now and then, until cancelled; at first as soon as it can be known what is in use."""
        while True:
            try:
                await self.collect()
            except FreeholdError as error:
                log.info("artifacts.collect_later", reason=error.message)
                await sleep(RETRY_INTERVAL_S)
            except Exception:
                # What stands in the way (a disk, say) may go, and the server works without.
                log.exception("artifacts.collect_failed")
                await sleep(COLLECT_INTERVAL_S)
            else:
                await sleep(COLLECT_INTERVAL_S)

    async def collect(self) -> list[str]:
        """Remove every bundle that nothing uses; the names of those removed. Raises what InUse does."""
        async with self._placing:
            return await self._collect()

    async def _make_room(self, size: int) -> None:
        used = await self._used_bytes()
        if used + size <= self._max_bytes:
            return
        try:
            await self._collect()
        except FreeholdError as error:
            log.warning("artifacts.collect_failed", reason=error.message)
        used = await self._used_bytes()
        if used + size > self._max_bytes:
            raise ArtifactRejected(
                f"Unpacked, your artifact needs {_mib(size)} MiB. Bundles that are in use take {_mib(used)} MiB of the "
                f"{_mib(self._max_bytes)} MiB that this server has for them (artifacts.max_cache_mib). Delete versions "
                "or agent runtimes that are not needed."
            )

    async def _used_bytes(self) -> int:
        names = await in_thread(lambda _: _bundles(self._root))
        for name in set(self._sizes) - set(names):
            del self._sizes[name]
        for name in names:
            if name not in self._sizes:
                place = self._root / name
                self._sizes[name] = await in_thread(lambda _, place=place: trees.disk_bytes(place))
        return sum(self._sizes.values())

    async def _collect(self) -> list[str]:
        with self._holding:
            self._released.clear()
        used = await self._in_use()
        self._give_up_holding()
        removed: list[str] = []
        for name in await in_thread(lambda _: _bundles(self._root)):
            if _digest(name) in used or self._is_held(name) or name in self._locks:
                continue
            # Not waited for, since nobody has it; whoever asks for the bundle meanwhile waits, and makes it anew.
            async with self._locked(name):
                if not await in_thread(lambda _, name=name: self._remove(name)):
                    continue
            self._sizes.pop(name, None)
            removed.append(name)
        if removed:
            log.info("artifacts.collected", bundles=removed)
        return removed

    def _give_up_holding(self) -> None:
        """Let go of what nobody has released in time."""
        oldest = self._clock() - RECORD_LIMIT_S
        with self._holding:
            for name, holders in list(self._held.items()):
                holders[:] = [since for since in holders if since >= oldest]
                if not holders:
                    del self._held[name]

    def _is_held(self, name: str) -> bool:
        return name in self._held or name in self._released

    def _remove(self, name: str) -> bool:
        """Remove the bundle, unless somebody has come to hold it."""
        doomed = self._temporary_path()
        with self._holding:
            if self._is_held(name):
                return False
            # Out of the way first: a bundle that has its name is complete.
            (self._root / name).rename(doomed)
        trees.remove(doomed)
        return True


@dataclass(slots=True)
class _Lock:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


def _bundles(root: Path) -> list[str]:
    return sorted(place.name for place in root.iterdir() if _BUNDLE.fullmatch(place.name))


def _digest(name: str) -> str:
    return name.partition("-")[0]


def _mib(size: int) -> int:
    return -(-size // MIB)


def _place(making: Path, bundle: Path) -> None:
    trees.seal(making)
    trees.sync_file_system(making)
    try:
        making.rename(bundle)
    except OSError as error:
        # Another process made the same bundle meanwhile, of the same bytes.
        if error.errno not in _THERE_ALREADY:
            raise
    trees.sync_directory(bundle.parent)
