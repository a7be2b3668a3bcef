"""How a version's sessions are started, wherever the data directory has been moved or restored to meanwhile.

A launch is recorded with the place of its bundle and its interpreter. Bundles are not backed up, the data directory
may have moved, and the host's Python may be another one: then the bundle is looked for in its present place, or made
again of the same bytes. Not for making it the first time (`reconciler`). Invariant: a launch is handed out only when
its bundle and its interpreter are there, and a version never runs other code than it was made of.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path
from typing import Final

import structlog
from anyio import to_thread

from freehold.artifacts.base import ArtifactRejected
from freehold.control import configuration
from freehold.control.reconciler import PREPARE_TIMEOUT_S, Preparer
from freehold.domain import errors
from freehold.domain.launch import LaunchSpec
from freehold.store.base import RuntimeKey, Store

CONCURRENCY: Final = 2
"""Bundles made again at once: unpacking and compiling is work for the machine."""
FAULT_PREFIX: Final = "This version can't be started: its unpacked code is no longer on this server"

log = structlog.get_logger(__name__)


class Launches:
    """Use from one event loop; `run` beside. `bundles` is the directory of bundles."""

    def __init__(self, store: Store, preparer: Preparer, bundles: Path) -> None:
        self._store = store
        self._preparer = preparer
        self._bundles = bundles
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._making: dict[tuple[RuntimeKey, int], asyncio.Task[LaunchSpec]] = {}

    async def get(self, key: RuntimeKey, version: int) -> LaunchSpec:
        """The launch of a version, whose bundle is made again if it must be.

        Raises NotFound (no such version can be started), StartFailed (it could not be made again), Unavailable.
        """
        launch, is_there = await to_thread.run_sync(self._look_up, key, version)
        if is_there:
            return launch
        making = self._making.get((key, version))
        if making is None:
            making = asyncio.create_task(self._make(key, version, launch))
            self._making[key, version] = making
            making.add_done_callback(lambda task: self._made(key, version, task))
        # Who asked may give up; what was begun is of use to the next.
        return await asyncio.shield(making)

    async def run(self) -> None:
        """Look after every version that is served, once: after a restore callers need not wait for their code."""
        try:
            for key, version in await to_thread.run_sync(self._store.serving):
                try:
                    await self.get(key, version)
                except errors.FreeholdError as error:
                    log.warning(
                        "launches.not_startable", runtime_id=key.runtime_id, version=version, reason=error.message
                    )
        except Exception:
            # Whoever needs one asks for it again.
            log.exception("launches.look_failed")

    async def aclose(self) -> None:
        """Give up what is being made."""
        for task in list(self._making.values()):
            task.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)

    def _look_up(self, key: RuntimeKey, version: int) -> tuple[LaunchSpec, bool]:
        """The launch with its bundle's present place, and whether all it needs is there. Blocking."""
        kept = self._store.get_launch(key, version)
        if kept is None:
            raise errors.NotFound(f"No version {version} of agent runtime {key.runtime_id} can be started")
        code_dir = self._bundles / Path(kept.code_dir).name
        launch = dataclasses.replace(kept, code_dir=str(code_dir))
        return launch, code_dir.is_dir() and os.access(kept.program.interpreter.executable, os.X_OK)

    async def _make(self, key: RuntimeKey, version: int, launch: LaunchSpec) -> LaunchSpec:
        try:
            async with self._slots, asyncio.timeout(PREPARE_TIMEOUT_S):
                made = await self._prepare(key, version, launch)
        except ArtifactRejected as rejected:
            fault = f"{FAULT_PREFIX}, and it can't be made again. {rejected}"
            await to_thread.run_sync(self._store.note_fault, key, version, fault)
            raise errors.StartFailed(fault) from rejected
        except TimeoutError:
            raise errors.Unavailable(f"{FAULT_PREFIX}, and making it again takes too long, please retry") from None
        except OSError as error:
            log.exception("launches.make_failed", runtime_id=key.runtime_id, version=version)
            raise errors.Unavailable(
                f"{FAULT_PREFIX}, and the server could not make it again: {error.strerror or 'an input/output error'}"
            ) from error
        await to_thread.run_sync(self._store.replace_launch, key, version, made)
        log.info("launches.made_again", runtime_id=key.runtime_id, version=version)
        return made

    async def _prepare(self, key: RuntimeKey, version: int, launch: LaunchSpec) -> LaunchSpec:
        _, row = await to_thread.run_sync(self._store.get_runtime, key, version)
        artifact = configuration.artifact_of(row.configuration)
        prepared = await self._preparer.prepare(artifact)
        if prepared.digest != row.digest:
            raise ArtifactRejected(
                f"The object s3://{artifact.source.bucket}/{artifact.source.key} is not the one that the version was "
                "made of. Put that object back, or update the agent runtime."
            )
        return dataclasses.replace(launch, code_dir=prepared.code_dir, program=prepared.program)

    def _made(self, key: RuntimeKey, version: int, task: asyncio.Task[LaunchSpec]) -> None:
        del self._making[key, version]
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, errors.FreeholdError):
            log.error("launches.make_failed", runtime_id=key.runtime_id, version=version, exc_info=error)
