"""A line's way from the warden's loop to disk: nothing waits, nothing is lost, a slow disk holds up its writers."""

import threading
import time
from datetime import UTC, datetime

import pytest

from freehold.domain.sessions import SessionKey
from freehold.warden import output
from freehold.warden.log_store import new_record
from freehold.warden.output import AgentLogs

KEY = SessionKey("000000000000", "agent-0123456789", "DEFAULT", "account:000000000000", "s" * 33)
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def lines_on_disk(root, generation):
    paths = sorted(root.rglob(f"{generation}/*.jsonl"))
    return sum(path.read_bytes().count(b"\n") for path in paths)


def test_every_line_of_many_sessions_is_on_disk_after_the_close(tmp_path):
    logs = AgentLogs(tmp_path)
    records = [new_record(KEY, generation, 1, now=NOW) for generation in range(1, 21)]
    for record in records:
        logs.open(record)
    for number in range(500):
        for record in records:
            assert logs.write(record.generation, "stdout", f"line {number}")
    for record in records:
        logs.close(record)
        assert logs.write(record.generation, "stdout", "after its end") is True
    logs.aclose()
    assert {lines_on_disk(tmp_path, record.generation) for record in records} == {500}


def test_a_disk_that_does_not_keep_up_asks_for_a_pause_and_never_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "MAX_WAITING_BYTES", 100_000)
    logs = AgentLogs(tmp_path)
    logs.open(new_record(KEY, 1, 1, now=NOW))
    slow = threading.Event()
    append = logs._store.append

    def blocked(generation, lines):
        slow.wait(20)
        append(generation, lines)

    monkeypatch.setattr(logs._store, "append", blocked)
    written = 0
    began = time.monotonic()
    while logs.write(1, "stdout", "x" * 1000):
        written += 1
    assert time.monotonic() - began < 5
    assert 50 < written < 120
    slow.set()
    deadline = time.monotonic() + 20
    while logs._handed_bytes != logs._done_bytes:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert logs.write(1, "stdout", "again")
    logs.aclose()
    assert lines_on_disk(tmp_path, 1) == written + 2


def test_a_failure_of_one_session_does_not_stop_the_others(tmp_path):
    logs = AgentLogs(tmp_path)
    (tmp_path / KEY.runtime_id).write_text("in the way")
    other = SessionKey(KEY.account, "other-0123456789", "DEFAULT", KEY.owner, KEY.session_id)
    for generation, key in ((1, KEY), (2, other)):
        logs.open(new_record(key, generation, 1, now=NOW))
        logs.write(generation, "stderr", "hello")
    logs.aclose()
    assert lines_on_disk(tmp_path, 2) == 1


@pytest.mark.parametrize("text", ["", "\x00\x1b[31m", "\ud800"])
def test_any_text_is_kept_as_one_line(tmp_path, text):
    logs = AgentLogs(tmp_path)
    logs.open(new_record(KEY, 1, 1, now=NOW))
    logs.write(1, "stdout", text.encode("utf-8", "replace").decode())
    logs.aclose()
    assert lines_on_disk(tmp_path, 1) == 1
