"""Brings agent runtimes and endpoints to rest: prepares new versions, ends what is being deleted.

For: everything in CREATING, UPDATING or DELETING, whether an API call has just put it there or an earlier run of the
server left it. Not for answering callers. Invariant: one task per runtime or endpoint at a time; one that is not at
rest is worked on, or is found again by the next scan; every failure ends in a *_FAILED status with a reason.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, Protocol

import structlog
from anyio import to_thread

from freehold.artifacts.base import ArtifactRejected, CodeArtifact, Prepared
from freehold.control import configuration
from freehold.control.feed import Feed
from freehold.control.warden_link import Warden
from freehold.domain import errors
from freehold.domain.runtimes import RuntimeStatus
from freehold.store.base import EndpointKey, RuntimeKey, RuntimeRow, Store, VersionRow

SCAN_INTERVAL_S: Final = 30.0
"""How often the store is asked for work that nobody woke us for (a failed write, say)."""
RETRY_PAUSES_S: Final = (0.2, 1.0, 5.0, 15.0)
"""Between tries after an internal error: five tries in all."""
PREPARE_TIMEOUT_S: Final = 600.0
CONCURRENCY: Final = 2
"""Runtimes worked on at once: unpacking and compiling is work for the machine."""

Work = RuntimeKey | EndpointKey
"""What can be brought to rest."""

log = structlog.get_logger(__name__)


class Preparer(Protocol):
    """Makes a bundle of an artifact (`freehold.artifacts.prepare.Preparer`)."""

    def look(self, artifact: CodeArtifact) -> Prepared | None:
        """The bundle, if it is certain that it is there already; it stays, until `release`. Blocking.

        Raises ArtifactRejected unless the object exists and can be read.
        """
        ...

    async def prepare(self, artifact: CodeArtifact) -> Prepared:
        """Raises ArtifactRejected when the artifact is at fault; anything else is the server's fault."""
        ...

    def release(self, prepared: Prepared) -> None:
        """The store has recorded the bundle, or never will: it is no longer kept for the caller."""
        ...


class Reconciler:
    """Use from one event loop; `run` until cancelled. Work that a cancel interrupts is taken up by the next run."""

    def __init__(
        self,
        store: Store,
        preparer: Preparer,
        feed: Feed,
        warden: Warden,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        concurrency: int = CONCURRENCY,
    ) -> None:
        self._store = store
        self._preparer = preparer
        self._feed = feed
        self._warden = warden
        self._now = now
        self._sleep = sleep
        self._slots = asyncio.Semaphore(concurrency)
        self._waiting: set[Work] = set()
        self._working: set[Work] = set()
        self._woken = asyncio.Event()

    def wake(self, key: Work) -> None:
        """There is work on this runtime or endpoint."""
        self._waiting.add(key)
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled, beginning with what an earlier run left unfinished."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._scan())
            while True:
                await self._woken.wait()
                self._woken.clear()
                for key in self._waiting - self._working:
                    self._waiting.discard(key)
                    self._working.add(key)
                    group.create_task(self._work(key))

    async def _scan(self) -> None:
        while True:
            try:
                found: list[Work] = [*await to_thread.run_sync(self._store.unfinished)]
                found += await to_thread.run_sync(self._store.deleting_endpoints)
                for key in found:
                    if key not in self._working:
                        self.wake(key)
            except Exception:
                log.exception("reconciler.scan_failed")
            await self._sleep(SCAN_INTERVAL_S)

    async def _work(self, key: Work) -> None:
        try:
            await self._settle(key)
        except Exception:
            # The failure itself could not be recorded; the next scan finds the runtime again.
            log.exception("reconciler.gave_up", runtime_id=_runtime_of(key).runtime_id)
        finally:
            self._working.discard(key)
            if key in self._waiting:
                self._woken.set()

    async def _settle(self, key: Work) -> None:
        """One piece of work, tried several times."""
        reference = uuid.uuid4().hex[:12]
        runtime_id = _runtime_of(key).runtime_id
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                async with self._slots:
                    await self._step(key)
            except (errors.NotFound, errors.Conflict) as error:
                # Overtaken by another change, which brings its own work.
                log.info("reconciler.overtaken", runtime_id=runtime_id, reason=error.message)
                return
            except Exception as error:
                log.exception("reconciler.step_failed", runtime_id=runtime_id, reference=reference)
                if pause_s is None:
                    await self._fail(key, _blame(error, reference))
                    return
                await self._sleep(pause_s)
            else:
                return

    async def _step(self, key: Work) -> None:
        if isinstance(key, EndpointKey):
            await self._delete_endpoint(key)
            return
        runtime, version = await to_thread.run_sync(self._store.get_runtime, key)
        match runtime.status:
            case RuntimeStatus.CREATING | RuntimeStatus.UPDATING:
                await self._prepare(runtime, version)
            case RuntimeStatus.DELETING:
                await self._delete(runtime)
            case _:
                pass

    async def _prepare(self, runtime: RuntimeRow, version: VersionRow) -> None:
        artifact = configuration.artifact_of(version.configuration)
        try:
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                prepared = await self._preparer.prepare(artifact)
        except ArtifactRejected as rejected:
            await self._fail(runtime.key, str(rejected))
            return
        except TimeoutError:
            await self._fail(runtime.key, f"Preparing the artifact took longer than {PREPARE_TIMEOUT_S:.0f} s.")
            return
        try:
            await self._record(runtime, version, prepared)
        finally:
            self._preparer.release(prepared)
        log.info("reconciler.version_ready", runtime_id=runtime.key.runtime_id, version=version.version)

    async def _record(self, runtime: RuntimeRow, version: VersionRow, prepared: Prepared) -> None:
        launch = configuration.launch_of(
            runtime.key, runtime.name, version.configuration, prepared, version=version.version
        )

        def commit() -> None:
            self._store.version_ready(
                runtime.key, version.version, digest=prepared.digest, launch=launch, now=self._now()
            )

        async with self._feed.changing(runtime.key.runtime_id):
            await to_thread.run_sync(commit)

    async def _delete(self, runtime: RuntimeRow) -> None:
        key = runtime.key
        # After a restart nobody has been told yet.
        await self._feed.changed(runtime_ids=[key.runtime_id])
        await self._warden.stop_runtime(key.scope.account, key.runtime_id)
        async with self._feed.changing(key.runtime_id):
            await to_thread.run_sync(self._store.remove_runtime, key)
        log.info("reconciler.runtime_removed", runtime_id=key.runtime_id)

    async def _delete_endpoint(self, key: EndpointKey) -> None:
        runtime = key.runtime
        endpoint = await to_thread.run_sync(self._store.get_endpoint, key)
        if endpoint.status is not RuntimeStatus.DELETING:
            return
        # After a restart nobody has been told yet.
        await self._feed.changed(runtime_ids=[runtime.runtime_id])
        await self._warden.stop_runtime(runtime.scope.account, runtime.runtime_id, endpoint=key.name)
        async with self._feed.changing(runtime.runtime_id):
            await to_thread.run_sync(self._store.remove_endpoint, key)
        log.info("reconciler.endpoint_removed", runtime_id=runtime.runtime_id)

    async def _fail(self, key: Work, reason: str) -> None:
        def commit() -> None:
            if isinstance(key, EndpointKey):
                self._store.endpoint_delete_failed(key, reason=reason, now=self._now())
                return
            runtime, version = self._store.get_runtime(key)
            if runtime.status is RuntimeStatus.DELETING:
                self._store.delete_failed(key, reason=reason, now=self._now())
            else:
                self._store.version_failed(key, version.version, reason=reason, now=self._now())

        await to_thread.run_sync(commit)
        log.info("reconciler.failed", runtime_id=_runtime_of(key).runtime_id, reason=reason)


def _runtime_of(key: Work) -> RuntimeKey:
    return key.runtime if isinstance(key, EndpointKey) else key


def _blame(error: Exception, reference: str) -> str:
    """A failureReason for a fault of the server: what the customer may know, and what the operator looks for."""
    if isinstance(error, OSError) and error.strerror:
        what = f"the server could not do it: {error.strerror}"
    elif isinstance(error, errors.FreeholdError):
        what = error.message
    else:
        what = "an internal error occurred"
    return (
        f"After {len(RETRY_PAUSES_S) + 1} tries: {what}. Correct the cause and repeat the operation; "
        f"the server's log tells more under reference {reference}."
    )
