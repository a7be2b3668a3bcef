"""The store's verbs for agent runtimes, on SQLite."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from sqlite3 import IntegrityError
from typing import Any

import pytest

from freehold.domain.errors import Conflict, NotFound, QuotaExceeded, ValidationFailed
from freehold.domain.launch import Interpreter, LaunchSpec, Program
from freehold.domain.runtimes import RuntimeStatus, ServerProtocol
from freehold.store.base import EndpointRow, NewRuntime, NewVersion, Once, Position, Ready, RuntimeKey, Scope
from freehold.store.sqlite import SqliteStore, open_store

HERE = Scope("111122223333", "eu-central-1")
ELSEWHERE = Scope("111122223333", "us-east-1")
OTHERS = Scope("444455556666", "eu-central-1")
NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
ID = "agent-0123456789"
KEY = RuntimeKey(HERE, ID)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = open_store(tmp_path / "freehold.sqlite")
    yield opened
    opened.close()


def new(runtime_id: str = ID, name: str = "agent", version: Ready | None = None, **more: Any) -> NewRuntime:
    arn = f"arn:aws:bedrock-agentcore:eu-central-1:111122223333:runtime/{runtime_id}"
    kept = {"environmentVariables": {"K": "v"}, "kept": 1}
    made = NewVersion({"a": "as sent"}, kept, "what it does", ready=version)
    return NewRuntime(runtime_id, name, arn, runtime_id, made, **more)


def create(store: SqliteStore, made: NewRuntime | None = None, *, scope: Scope = HERE, **more: Any):
    arguments: dict[str, Any] = {"once": None, "max_runtimes": 10, "now": NOW, **more}
    return store.create_runtime(scope, made or new(), **arguments)


def update(store: SqliteStore, **more: Any):
    arguments: dict[str, Any] = {"once": None, "max_versions": 10, "now": NOW, **more}
    return store.update_runtime(KEY, NewVersion({}, {"second": True}), **arguments)


def launch(version: int = 1) -> LaunchSpec:
    return LaunchSpec(
        account=HERE.account,
        region=HERE.region,
        runtime_id=ID,
        runtime_name="agent",
        version=version,
        protocol=ServerProtocol.AGUI,
        port=8080,
        code_dir="/srv/code",
        program=Program(Interpreter("/usr/bin/python3", ("/opt",), ("/usr/lib/x",)), ("main.py",)),
        idle_timeout_s=900,
        max_lifetime_s=28800,
        environment={"K": "v"},
    )


def ready(store: SqliteStore, version: int = 1) -> None:
    store.version_ready(KEY, version, digest="sha256:1", launch=launch(version), now=NOW)


def once(token: str = "t", digest: str = "d", operation: str = "CreateAgentRuntime") -> Once:
    return Once(operation, token, digest)


def test_a_new_runtime_is_creating_version_1_and_serves_nothing(store: SqliteStore):
    receipt = create(store)
    assert (receipt.version, receipt.status, receipt.created_at) == (1, RuntimeStatus.CREATING, NOW)
    runtime, version = store.get_runtime(KEY)
    assert runtime.status is RuntimeStatus.CREATING
    assert version.received == {"a": "as sent"}
    assert version.configuration["environmentVariables"] == {"K": "v"}
    assert store.resolve_endpoint(KEY, "DEFAULT") is None
    assert store.get_launch(KEY, 1) is None
    assert store.get_contract(KEY, 1) is None
    assert store.unfinished() == [KEY]


def test_instants_come_back_as_utc_with_microseconds(store: SqliteStore):
    berlin = NOW.astimezone(timezone(timedelta(hours=1)))
    create(store, now=berlin)
    created_at = store.get_runtime(KEY)[0].created_at
    assert created_at == NOW
    assert created_at.utcoffset() == timedelta(0)
    assert created_at.microsecond == 123456


def test_an_instant_without_a_timezone_is_refused(store: SqliteStore):
    with pytest.raises(Exception, match="without a timezone"):
        create(store, now=NOW.replace(tzinfo=None))
    assert store.list_runtimes(HERE, after=None, limit=10) == []


def test_a_ready_version_is_served_with_the_launch_it_was_given(store: SqliteStore):
    create(store)
    ready(store)
    endpoint = store.resolve_endpoint(KEY, "DEFAULT")
    assert endpoint is not None
    assert (endpoint.live_version, endpoint.target_version) == (1, 1)
    assert store.get_launch(KEY, 1) == launch(1)
    assert store.get_runtime(KEY)[0].status is RuntimeStatus.READY
    assert store.unfinished() == []
    assert store.resolve_endpoint(KEY, "default") is None


def test_a_version_that_is_prepared_already_is_made_ready_and_served_at_once(store: SqliteStore):
    prepared = Ready("sha256:1", launch(version=0))
    assert create(store, new(version=prepared)).status is RuntimeStatus.CREATING
    assert store.unfinished() == []
    assert store.resolve_endpoint(KEY, "DEFAULT") == EndpointRow("DEFAULT", 1, 1)
    assert store.get_launch(KEY, 1) == launch(1)
    receipt = store.update_runtime(KEY, NewVersion({}, {}, ready=prepared), once=None, max_versions=10, now=NOW)
    assert (receipt.version, receipt.status) == (2, RuntimeStatus.UPDATING)
    assert store.unfinished() == []
    runtime, version = store.get_runtime(KEY)
    assert (runtime.status, version.status, version.digest) == (RuntimeStatus.READY, RuntimeStatus.READY, "sha256:1")
    assert store.resolve_endpoint(KEY, "DEFAULT") == EndpointRow("DEFAULT", 2, 2)
    assert store.get_launch(KEY, 2) == launch(2)


def test_accounts_and_regions_do_not_see_each_other(store: SqliteStore):
    create(store)
    for scope in (ELSEWHERE, OTHERS):
        with pytest.raises(NotFound):
            store.get_runtime(RuntimeKey(scope, ID))
        assert store.list_runtimes(scope, after=None, limit=10) == []
    create(store, new("agent-9999999999"), scope=OTHERS)


def test_a_name_is_taken_until_its_runtime_is_gone(store: SqliteStore):
    create(store)
    ready(store)
    again = new("agent-9999999999")
    with pytest.raises(Conflict, match="An agent with the specified name already exists"):
        create(store, again)
    store.begin_delete(KEY, once=None, now=NOW)
    with pytest.raises(Conflict):
        create(store, again)
    store.remove_runtime(KEY)
    create(store, again)


def test_the_quota_of_runtimes_is_kept(store: SqliteStore):
    create(store, max_runtimes=1)
    with pytest.raises(QuotaExceeded, match="1 agent runtimes"):
        create(store, new("b-0123456789", "b"), max_runtimes=1)


def test_the_quota_of_versions_is_kept(store: SqliteStore):
    create(store)
    ready(store)
    with pytest.raises(QuotaExceeded, match="1 versions"):
        update(store, max_versions=1)
    assert store.get_runtime(KEY)[0].status is RuntimeStatus.READY


def test_a_version_beyond_the_last_number_of_the_model_is_refused(store: SqliteStore):
    create(store)
    ready(store)
    with store._write() as db:
        for table, column in (("agent_runtime_versions", "version"), ("agent_runtimes", "latest_version")):
            db.exec_driver_sql(f"UPDATE {table} SET {column} = 99999")
    with pytest.raises(QuotaExceeded, match="99999"):
        update(store)


def test_the_same_token_and_parameters_get_the_first_receipt(store: SqliteStore):
    first = create(store, once=once())
    later = NOW + timedelta(hours=23)
    second = create(store, new("agent-9999999999"), once=once(), now=later)
    assert second == first
    assert len(store.list_runtimes(HERE, after=None, limit=10)) == 1
    assert store.replayed(HERE, once(), now=later) == first


def test_the_same_token_with_other_parameters_is_refused(store: SqliteStore):
    create(store, once=once())
    with pytest.raises(ValidationFailed) as refusal:
        create(store, new("b-0123456789", "b"), once=once(digest="other"))
    assert refusal.value.reason == "IdempotentParameterMismatchException"


def test_a_token_belongs_to_one_account_and_operation(store: SqliteStore):
    create(store, once=once())
    create(store, scope=OTHERS, once=once(digest="other"))
    assert store.replayed(HERE, once(operation="UpdateAgentRuntime"), now=NOW) is None


def test_a_token_is_forgotten_after_a_day(store: SqliteStore):
    create(store, once=once())
    tomorrow = NOW + timedelta(hours=24)
    assert store.replayed(HERE, once(), now=tomorrow) is None
    create(store, new("b-0123456789", "b"), once=once(digest="other"), now=tomorrow)


def test_a_refused_call_leaves_its_token_unused(store: SqliteStore):
    create(store)
    with pytest.raises(Conflict):
        create(store, new("agent-9999999999"), once=once())
    assert store.replayed(HERE, once(), now=NOW) is None


def test_an_update_is_served_only_when_it_is_ready(store: SqliteStore):
    create(store)
    ready(store)
    receipt = update(store, once=once(operation="UpdateAgentRuntime"))
    assert (receipt.version, receipt.status) == (2, RuntimeStatus.UPDATING)
    assert update(store, once=once(operation="UpdateAgentRuntime")) == receipt
    endpoint = store.resolve_endpoint(KEY, "DEFAULT")
    assert endpoint is not None
    assert (endpoint.live_version, endpoint.target_version) == (1, 2)
    ready(store, 2)
    endpoint = store.resolve_endpoint(KEY, "DEFAULT")
    assert endpoint is not None
    assert endpoint.live_version == 2
    assert store.get_launch(KEY, 1) == launch(1)


@pytest.mark.parametrize("change", ["update", "delete", "version"])
def test_a_changing_runtime_takes_no_other_change(store: SqliteStore, change: str):
    create(store)
    with pytest.raises(Conflict, match="CREATING"):
        if change == "update":
            update(store)
        elif change == "delete":
            store.begin_delete(KEY, once=None, now=NOW)
        else:
            store.delete_version(KEY, 1, keep=frozenset(), once=None, now=NOW)


def test_a_failed_first_version_leaves_nothing_served_and_may_be_updated(store: SqliteStore):
    create(store)
    store.version_failed(KEY, 1, reason="no main.py", now=NOW)
    runtime, version = store.get_runtime(KEY)
    assert runtime.status is version.status is RuntimeStatus.CREATE_FAILED
    assert runtime.failure_reason == version.failure_reason == "no main.py"
    assert store.resolve_endpoint(KEY, "DEFAULT") is None
    assert update(store).version == 2
    assert store.get_runtime(KEY)[0].failure_reason is None
    ready(store, 2)
    assert store.resolve_endpoint(KEY, "DEFAULT") is not None


def test_a_failed_update_leaves_the_last_good_version_served(store: SqliteStore):
    create(store)
    ready(store)
    update(store)
    store.version_failed(KEY, 2, reason="broken zip", now=NOW)
    endpoint = store.resolve_endpoint(KEY, "DEFAULT")
    assert endpoint is not None
    assert (endpoint.live_version, endpoint.target_version) == (1, 1)
    assert store.get_runtime(KEY)[0].status is RuntimeStatus.UPDATE_FAILED
    assert store.get_runtime(KEY, 1)[1].status is RuntimeStatus.READY
    assert update(store).version == 3


def test_an_overtaken_version_can_not_become_ready(store: SqliteStore):
    create(store)
    ready(store)
    update(store)
    with pytest.raises(Conflict, match="overtaken"):
        ready(store, 1)
    store.version_failed(KEY, 2, reason="x", now=NOW)
    with pytest.raises(Conflict):
        ready(store, 2)


def test_a_runtime_in_deletion_has_no_route_and_goes_with_all_that_is_its_own(store: SqliteStore):
    create(store, new(tags={"team": "blue"}))
    arn = new().arn
    assert store.list_tags(HERE, arn) == {"team": "blue"}
    ready(store)
    receipt = store.begin_delete(KEY, once=once("x", "d", "DeleteAgentRuntime"), now=NOW)
    assert receipt.status is RuntimeStatus.DELETING
    assert store.resolve_endpoint(KEY, "DEFAULT") is None
    assert store.get_launch(KEY, 1) is None
    assert store.unfinished() == [KEY]
    store.remove_runtime(KEY)
    with pytest.raises(NotFound):
        store.get_runtime(KEY)
    assert store.list_tags(HERE, arn) == {}
    assert store.get_contract(KEY, 1) is None
    assert store.begin_delete(KEY, once=once("x", "d", "DeleteAgentRuntime"), now=NOW) == receipt
    # Nothing of the old one is in the way of a new one with the same id and name.
    create(store)


def test_only_a_runtime_in_deletion_can_be_removed(store: SqliteStore):
    create(store)
    with pytest.raises(Conflict, match="CREATING"):
        store.remove_runtime(KEY)
    with pytest.raises(NotFound):
        store.remove_runtime(RuntimeKey(HERE, "b-0123456789"))


def test_a_failed_deletion_can_be_tried_again(store: SqliteStore):
    create(store)
    ready(store)
    store.begin_delete(KEY, once=None, now=NOW)
    store.delete_failed(KEY, reason="the warden is away", now=NOW)
    assert store.get_runtime(KEY)[0].failure_reason == "the warden is away"
    assert store.resolve_endpoint(KEY, "DEFAULT") is None
    with pytest.raises(Conflict):
        update(store)
    store.begin_delete(KEY, once=None, now=NOW)
    assert store.get_runtime(KEY)[0].status is RuntimeStatus.DELETING


def test_a_deleted_version_is_gone_but_for_what_running_sessions_need(store: SqliteStore):
    create(store)
    ready(store)
    update(store)
    ready(store, 2)
    receipt = store.delete_version(KEY, 1, keep=frozenset({"kept"}), once=None, now=NOW)
    assert (receipt.version, receipt.status) == (1, RuntimeStatus.DELETING)
    with pytest.raises(NotFound, match="No version 1"):
        store.get_runtime(KEY, 1)
    with pytest.raises(NotFound):
        store.delete_version(KEY, 1, keep=frozenset(), once=None, now=NOW)
    assert store.get_launch(KEY, 1) is None
    assert store.get_contract(KEY, 1) == {"kept": 1}
    assert update(store).version == 3


def test_a_version_in_use_can_not_be_deleted(store: SqliteStore):
    create(store)
    ready(store)
    with pytest.raises(Conflict, match="endpoint DEFAULT uses it"):
        store.delete_version(KEY, 1, keep=frozenset(), once=None, now=NOW)
    update(store)
    store.version_failed(KEY, 2, reason="x", now=NOW)
    with pytest.raises(Conflict, match="latest version"):
        store.delete_version(KEY, 2, keep=frozenset(), once=None, now=NOW)


def test_a_listing_goes_on_where_it_stopped_whatever_was_added(store: SqliteStore):
    for number in range(5):
        # Three of them at the same instant: the id decides.
        at = NOW + timedelta(seconds=max(0, number - 2))
        create(store, new(f"a{number}-0123456789", f"a{number}"), now=at)
    first = store.list_runtimes(HERE, after=None, limit=2)
    create(store, new("z-0123456789", "z"), now=NOW + timedelta(hours=1))
    last = first[-1]
    rest = store.list_runtimes(HERE, after=Position(last.created_at, last.runtime_id), limit=10)
    assert [row.name for row in first + rest] == ["a0", "a1", "a2", "a3", "a4", "z"]
    assert first[0].description == "what it does"


def test_a_listing_tells_the_latest_and_the_live_version(store: SqliteStore):
    create(store)
    ready(store)
    update(store)
    (row,) = store.list_runtimes(HERE, after=None, limit=10)
    assert (row.latest_version, row.description) == (2, None)
    assert store.live_versions(HERE, [ID, "unknown-0123456789"]) == {ID: 1}


def test_of_many_creations_with_one_name_at_once_exactly_one_wins(store: SqliteStore):
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def one(number: int) -> None:
        barrier.wait(timeout=10)
        try:
            create(store, new(f"agent-000000000{number}"))
        except Conflict:
            outcomes.append("conflict")
        else:
            outcomes.append("created")

    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert sorted(outcomes) == ["conflict"] * 7 + ["created"]
    assert len(store.list_runtimes(HERE, after=None, limit=10)) == 1


def test_what_was_stored_is_there_after_reopening(tmp_path: Path):
    path = tmp_path / "freehold.sqlite"
    first = open_store(path)
    create(first, once=once())
    first.close()
    second = open_store(path)
    assert second.get_runtime(KEY)[0].created_at == NOW
    assert second.unfinished() == [KEY]
    assert second.replayed(HERE, once(), now=NOW) is not None
    second.close()


def test_digests_are_those_of_versions_that_exist_and_a_deleted_one_is_still_known(store: SqliteStore):
    create(store)
    assert store.digests() == frozenset()
    assert store.get_digest(KEY, 1) is None
    ready(store)
    update(store)
    store.version_ready(KEY, 2, digest="sha256:2", launch=launch(2), now=NOW)
    create(store, new("other-0123456789", "other"), scope=OTHERS)
    other = RuntimeKey(OTHERS, "other-0123456789")
    store.version_ready(other, 1, digest="sha256:2", launch=launch(), now=NOW)
    assert store.digests() == {"sha256:1", "sha256:2"}
    store.delete_version(KEY, 1, keep=frozenset(), once=None, now=NOW)
    assert store.digests() == {"sha256:2"}
    assert store.get_digest(KEY, 1) == "sha256:1"
    assert store.get_digest(KEY, 3) is None
    store.begin_delete(KEY, once=None, now=NOW)
    assert store.digests() == {"sha256:2"}
    store.remove_runtime(KEY)
    assert store.get_digest(KEY, 1) is None
    assert store.digests() == {"sha256:2"}, "the other account's"


def test_the_quota_is_exact_whatever_was_deleted_or_undone_before(store: SqliteStore):
    def make(number: int) -> RuntimeKey:
        create(store, new(f"a{number}-0123456789", f"a{number}"), max_runtimes=3)
        return RuntimeKey(HERE, f"a{number}-0123456789")

    keys = [make(number) for number in range(2)]
    for _ in range(5):
        with pytest.raises(IntegrityError):  # an id that is taken: it is undone after it was counted
            create(store, new(keys[0].runtime_id, "another"), max_runtimes=3)
    for number in range(2, 6):
        keys.append(make(number))
        with pytest.raises(QuotaExceeded, match="maximum of 3"):
            make(9)
        gone = keys.pop(0)
        store.version_failed(gone, 1, reason="x", now=NOW)
        store.begin_delete(gone, once=None, now=NOW)
        store.remove_runtime(gone)
    create(store, scope=OTHERS, max_runtimes=1)
    with pytest.raises(QuotaExceeded, match="maximum of 1"):
        create(store, new("b-0123456789", "b"), scope=OTHERS, max_runtimes=1)
