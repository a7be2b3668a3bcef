"""Which bundles are in use: asked of a real store and of a warden that lists its sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_parts import ACCOUNT, HERE, NOW, REGION, RecordingWarden, configuration, stored

from freehold.control import in_use
from freehold.control.in_use import InUse
from freehold.domain.errors import Unavailable
from freehold.domain.launch import Interpreter, LaunchSpec, Program
from freehold.domain.runtimes import ServerProtocol
from freehold.domain.sessions import SessionKey, SessionState
from freehold.store.base import NewVersion, RuntimeKey
from freehold.store.sqlite import SqliteStore, open_store
from freehold.warden.protocol import SessionInfo


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = open_store(tmp_path / "freehold.db")
    yield opened
    opened.close()


def ready(store: SqliteStore, key: RuntimeKey, version: int) -> str:
    """Make a version READY; its digest."""
    digest = f"{key.runtime_id}-{version}"
    launch = LaunchSpec(
        account=ACCOUNT,
        region=REGION,
        runtime_id=key.runtime_id,
        runtime_name="agent",
        version=version,
        protocol=ServerProtocol.HTTP,
        port=8080,
        code_dir=f"/srv/{digest}",
        program=Program(Interpreter("/usr/bin/python3"), ("main.py",)),
        idle_timeout_s=900,
        max_lifetime_s=28800,
    )
    store.version_ready(key, version, digest=digest, launch=launch, now=NOW)
    return digest


def update(store: SqliteStore, key: RuntimeKey) -> None:
    store.update_runtime(key, NewVersion({}, configuration()), once=None, max_versions=9, now=NOW)


def session(key: RuntimeKey, version: int, generation: int = 1) -> SessionInfo:
    return SessionInfo(
        generation=generation,
        key=SessionKey(key.scope.account, key.runtime_id, "DEFAULT", "owner", f"s-{generation}"),
        version=version,
        state=SessionState.READY,
        claims=0,
        age_s=1,
        idle_s=1,
    )


def asked(store: SqliteStore, warden: RecordingWarden) -> frozenset[str]:
    return asyncio.run(InUse(store, warden, region=HERE.region)())


def test_versions_that_exist_use_their_bundles(store: SqliteStore):
    key = stored(store)
    first = ready(store, key, 1)
    update(store, key)
    second = ready(store, key, 2)
    assert asked(store, RecordingWarden()) == {first, second}


def test_a_session_uses_the_bundle_of_its_version_even_when_that_was_deleted(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(in_use, "_PAGE", 2)
    key = stored(store)
    first = ready(store, key, 1)
    update(store, key)
    second = ready(store, key, 2)
    store.delete_version(key, 1, keep=frozenset(), once=None, now=NOW)
    assert asked(store, RecordingWarden()) == {second}
    sessions = [session(key, 2, generation) for generation in range(1, 8)]
    warden = RecordingWarden(running=[*sessions, session(key, 1, 8)])
    assert asked(store, warden) == {first, second}


def test_there_is_no_answer_when_a_session_can_not_be_accounted_for(store: SqliteStore):
    key = stored(store)
    ready(store, key, 1)
    with pytest.raises(Unavailable):
        asked(store, RecordingWarden(running=[session(RuntimeKey(HERE, "gone-0123456789"), 1)]))
