"""The vault: secrets at rest, and a store that is opened with its own key or not at all."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from freehold.domain.errors import Conflict, NotFound
from freehold.store.base import AccessKeyRow, Scope, StoreRefused
from freehold.store.sqlite import SqliteStore, open_store
from freehold.store.vault import Vault, open_vault

NOW = datetime(2026, 11, 23, tzinfo=UTC)
HERE = Scope("111122223333", "eu-central-1")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    (tmp_path / "db").mkdir()
    return tmp_path / "db" / "freehold.sqlite"


@pytest.fixture
def store(database: Path) -> Iterator[SqliteStore]:
    opened = open_store(database)
    yield opened
    opened.close()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "master.key"


def test_a_new_store_gets_a_key_that_only_its_owner_may_read(store: SqliteStore, database: Path, key_file: Path):
    open_vault(key_file, database, store)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert key_file.stat().st_size == 32
    assert [file.name for file in key_file.parent.iterdir()] == ["master.key"]


def test_a_secret_comes_back_with_the_same_key_after_a_restart(store: SqliteStore, database: Path, key_file: Path):
    sealed = open_vault(key_file, database, store).seal("geheim", name="AKIA1")
    assert open_vault(key_file, database, store).unseal(sealed, name="AKIA1") == "geheim"


def test_a_sealed_secret_is_not_found_in_the_database_files(store: SqliteStore, database: Path, key_file: Path):
    vault = open_vault(key_file, database, store)
    store.add_access_key(AccessKeyRow("AKIA1", HERE, vault.seal("very-secret-indeed", name="AKIA1"), NOW))
    for file in database.parent.iterdir():
        assert b"very-secret-indeed" not in file.read_bytes()


def test_a_sealed_secret_opens_under_its_own_name_only(store: SqliteStore, database: Path, key_file: Path):
    vault = open_vault(key_file, database, store)
    sealed = vault.seal("geheim", name="AKIA1")
    with pytest.raises(StoreRefused):
        vault.unseal(sealed, name="AKIA2")
    with pytest.raises(StoreRefused):
        vault.unseal(sealed[:-1] + bytes([sealed[-1] ^ 1]), name="AKIA1")
    with pytest.raises(StoreRefused):
        vault.unseal(b"", name="AKIA1")


def test_the_same_secret_is_never_sealed_alike():
    vault = Vault(bytes(32))
    assert vault.seal("geheim", name="AKIA1") != vault.seal("geheim", name="AKIA1")


def test_a_store_without_its_key_is_refused(store: SqliteStore, database: Path, key_file: Path):
    open_vault(key_file, database, store)
    key_file.unlink()
    with pytest.raises(StoreRefused, match=r"missing.*restore the key file"):
        open_vault(key_file, database, store)
    assert not key_file.exists()


def test_a_store_with_another_key_is_refused(store: SqliteStore, database: Path, key_file: Path):
    open_vault(key_file, database, store)
    key_file.write_bytes(bytes(32))
    with pytest.raises(StoreRefused, match="not the one that sealed"):
        open_vault(key_file, database, store)


def test_a_key_that_others_may_read_is_refused(store: SqliteStore, database: Path, key_file: Path):
    open_vault(key_file, database, store)
    key_file.chmod(0o640)
    with pytest.raises(StoreRefused, match="chmod 600"):
        open_vault(key_file, database, store)


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_a_key_of_the_wrong_length_is_refused(store: SqliteStore, database: Path, key_file: Path, content: bytes):
    open_vault(key_file, database, store)
    key_file.write_bytes(content)
    with pytest.raises(StoreRefused, match="32 bytes"):
        open_vault(key_file, database, store)


def test_a_key_beside_the_database_is_refused(store: SqliteStore, database: Path):
    for inside in (database.parent / "master.key", database.parent / "keys" / "master.key"):
        with pytest.raises(StoreRefused, match="must not lie"):
            open_vault(inside, database, store)
        assert not inside.exists()


def test_keys_for_different_purposes_differ_and_last():
    one, again, other = Vault(bytes(32)), Vault(bytes(32)), Vault(bytes([1] * 32))
    assert one.derive("pages") == again.derive("pages")
    assert len({one.derive("pages"), one.derive("else"), other.derive("pages"), bytes(32)}) == 4


def test_neither_a_vault_nor_a_key_row_shows_its_secret():
    vault = Vault(b"k" * 32)
    assert "kkkk" not in repr(vault)
    assert "sealed" not in repr(AccessKeyRow("AKIA1", HERE, b"sealed", NOW))


def test_a_disabled_key_keeps_the_instant_it_was_disabled(store: SqliteStore):
    store.add_access_key(AccessKeyRow("AKIA0", HERE, b"sealed", NOW))
    store.add_access_key(AccessKeyRow("AKIA1", HERE, b"sealed", NOW))
    store.disable_access_key("AKIA1", now=NOW)
    store.disable_access_key("AKIA1", now=NOW.replace(year=2027))
    row = store.get_access_key("AKIA1")
    assert row is not None
    assert row.disabled_at == NOW
    assert store.list_access_keys()[1:] == [row]
    with pytest.raises(NotFound):
        store.disable_access_key("AKIA2", now=NOW)
    assert store.get_access_key("AKIA2") is None


def test_the_last_usable_key_of_an_account_can_be_neither_disabled_nor_deleted(store: SqliteStore):
    elsewhere = Scope("999988887777", HERE.region)
    for key_id, scope in (("AKIA1", HERE), ("AKIA2", HERE), ("AKIA3", elsewhere)):
        store.add_access_key(AccessKeyRow(key_id, scope, b"sealed", NOW))
    store.disable_access_key("AKIA1", now=NOW)
    for verb in (store.delete_access_key, lambda key_id: store.disable_access_key(key_id, now=NOW)):
        for last in ("AKIA2", "AKIA3"):
            with pytest.raises(Conflict, match="last"):
                verb(last)
    store.delete_access_key("AKIA1")
    assert [row.access_key_id for row in store.list_access_keys()] == ["AKIA2", "AKIA3"]
    with pytest.raises(NotFound):
        store.delete_access_key("AKIA1")


def test_a_key_that_is_replaced_works_until_a_given_instant_and_can_not_be_replaced_again(store: SqliteStore):
    later = NOW + timedelta(hours=1)
    store.add_access_key(AccessKeyRow("AKIA1", HERE, b"sealed", NOW))
    store.replace_access_key("AKIA1", AccessKeyRow("AKIA2", HERE, b"sealed", NOW), until=later)
    assert [row.disabled_at for row in store.list_access_keys()] == [later, None]
    for known in ("AKIA1", "AKIA3"):
        with pytest.raises(Conflict if known == "AKIA1" else NotFound):
            store.replace_access_key(known, AccessKeyRow("AKIA4", HERE, b"sealed", NOW), until=later)
    assert store.get_access_key("AKIA4") is None
    with pytest.raises(Conflict, match="last"):
        store.disable_access_key("AKIA2", now=NOW)
    store.disable_access_key("AKIA1", now=NOW)
    assert [row.disabled_at for row in store.list_access_keys()] == [NOW, None]


def test_keys_of_a_kind_are_forgotten_once_they_ended(store: SqliteStore):
    for key_id, ends_at in (("ASIA1", NOW), ("ASIA2", NOW + timedelta(hours=1)), ("AKIA1", NOW), ("AKIA2", None)):
        store.add_access_key(AccessKeyRow(key_id, HERE, b"sealed", NOW, ends_at))
    store.forget_access_keys("ASIA", disabled_before=NOW + timedelta(minutes=1))
    assert [row.access_key_id for row in store.list_access_keys()] == ["AKIA1", "AKIA2", "ASIA2"]
