"""Parts that the control tests share: a preparer that reads real objects, a recording warden, rows to begin with."""

from __future__ import annotations

import asyncio
import hashlib
import zipfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from freehold.artifacts.base import ArtifactRejected, CodeArtifact, Prepared
from freehold.domain.errors import NotFound
from freehold.domain.launch import Interpreter, Program
from freehold.domain.sessions import EndReason
from freehold.store.base import NewRuntime, NewVersion, RuntimeKey, Scope, Store
from freehold.warden.history import History
from freehold.warden.protocol import ListEnded, SessionFound, SessionInfo, SessionRecord
from freehold.warden.tally import EndpointTally

ACCOUNT = "111122223333"
REGION = "eu-central-1"
HERE = Scope(ACCOUNT, REGION)
NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


class ReadingPreparer:
    """Reads the object from the bucket directory, and refuses what isn't a zip with the entry point in it."""

    def __init__(self, buckets: Path) -> None:
        self.buckets = buckets
        self.faults: list[Exception] = []
        """Raised by the next calls of `prepare`, one each."""
        self.gate: asyncio.Event | None = None
        """When set: `prepare` waits for it."""
        self.entered = asyncio.Event()
        self.calls = 0
        self.released: list[str] = []
        self.known: dict[CodeArtifact, Prepared] = {}
        """What `look` finds prepared."""

    def look(self, artifact: CodeArtifact) -> Prepared | None:
        source = artifact.source
        if not (self.buckets / source.bucket / source.key).is_file():
            raise ArtifactRejected(f"there is no object {source.key} in bucket {source.bucket}")
        return self.known.get(artifact)

    async def prepare(self, artifact: CodeArtifact) -> Prepared:
        self.calls += 1
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.faults:
            raise self.faults.pop(0)
        path = self.buckets / artifact.source.bucket / artifact.source.key
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile as error:
            raise ArtifactRejected(f"the artifact is not a zip: {error}") from error
        if artifact.entry_point[0] not in names:
            raise ArtifactRejected("The specified entrypoint could not be found or accessed in your artifact.")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Prepared(digest, f"/srv/code/{digest}", Program(Interpreter("/usr/bin/python3"), artifact.entry_point))

    def release(self, prepared: Prepared) -> None:
        self.released.append(prepared.digest)


@dataclass
class RecordingWarden:
    """Remembers what it was told."""

    stopped: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    stopped_endpoints: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    running: list[SessionInfo] = field(default_factory=list[SessionInfo])
    history: History = field(default_factory=History)
    faults: list[Exception] = field(default_factory=list[Exception])
    gate: asyncio.Event | None = None
    """When set: `stop_runtime` waits for it."""

    async def stop_runtime(self, account: str, runtime_id: str, *, endpoint: str | None = None) -> None:
        if self.faults:
            raise self.faults.pop(0)
        if self.gate is not None:
            await self.gate.wait()
        if endpoint is None:
            self.stopped.append((account, runtime_id))
        else:
            self.stopped_endpoints.append((account, runtime_id, endpoint))

    async def sessions(
        self,
        *,
        after: int,
        limit: int,
        account: str | None = None,
        runtime_id: str | None = None,
        with_usage: bool = False,
    ) -> list[SessionInfo]:
        return [
            session
            for session in self.running
            if session.generation > after
            and account in (None, session.key.account)
            and runtime_id in (None, session.key.runtime_id)
        ][:limit]

    async def ended(self, wanted: ListEnded) -> list[SessionRecord]:
        return self.history.page(wanted)

    async def find(self, account: str, generation: int) -> SessionFound:
        for session in self.running:
            if session.generation == generation and session.key.account == account:
                return SessionFound(running=session)
        if (record := self.history.find(account, generation)) is not None:
            return SessionFound(ended=record)
        raise NotFound("No such session")

    async def stop(self, account: str, generation: int) -> None:
        found = await self.find(account, generation)
        if (session := found.running) is None:
            raise NotFound("No such running session")
        self.running.remove(session)
        self.history.add(
            SessionRecord(
                generation, session.key, session.version, "group", NOW, ended_at=NOW, reason=EndReason.OPERATOR
            )
        )

    async def tally(self) -> list[EndpointTally]:
        return []


def put_zip(buckets: Path, key: str = "agent.zip", *, bucket: str = "code", **files: str) -> None:
    """A zip with main.py, and what else is given."""
    path = buckets / bucket / key
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {"main": "print()", **files}.items():
            archive.writestr(f"{name}.py", text)


def configuration(key: str = "agent.zip", **more: Any) -> dict[str, Any]:
    """A normalised configuration."""
    code = {"code": {"s3": {"bucket": "code", "prefix": key}}, "runtime": "PYTHON_3_11", "entryPoint": ["main.py"]}
    return {
        "agentRuntimeArtifact": {"codeConfiguration": code},
        "roleArn": "arn:aws:iam::111122223333:role/r",
        "networkConfiguration": {"networkMode": "PUBLIC"},
        "protocolConfiguration": {"serverProtocol": "AGUI"},
        "lifecycleConfiguration": {"idleRuntimeSessionTimeout": 60, "maxLifetime": 600},
        "environmentVariables": {"K": "v"},
        **more,
    }


def stored(store: Store, name: str = "agent", **more: Any) -> RuntimeKey:
    """A runtime in CREATING, put straight into the store."""
    key = RuntimeKey(HERE, f"{name}-0123456789")
    arn = f"arn:aws:bedrock-agentcore:{REGION}:{ACCOUNT}:runtime/{key.runtime_id}"
    new = NewRuntime(key.runtime_id, name, arn, key.runtime_id, NewVersion({}, configuration(**more)))
    store.create_runtime(HERE, new, once=None, max_runtimes=100, now=NOW)
    return key
