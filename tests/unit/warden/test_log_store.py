"""What the disk holds of agents' output: bounded, whole lines, in order; read by a reader that keeps up or doesn't."""

import json
import os
import resource
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from freehold.domain.sessions import EndReason, SessionKey
from freehold.warden import log_files
from freehold.warden.log_files import SessionReader
from freehold.warden.log_store import LogBounds, LogStore, new_record

KEY = SessionKey("000000000000", "agent-0123456789", "DEFAULT", "account:000000000000", "s" * 33)
KIB = 1024


class Clock:
    def __init__(self):
        self.now = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)

    def __call__(self):
        return self.now


class Disk:
    def __init__(self, root, **bounds):
        self.clock = Clock()
        self.root = root
        self.bounds = LogBounds(**{"max_session_bytes": 64 * KIB, "max_total_bytes": 256 * KIB, **bounds})
        self.store = self.again()

    def again(self):
        return LogStore(self.root, self.bounds, now=self.clock)

    def open(self, generation):
        record = new_record(KEY, generation, 1, now=self.clock.now)
        self.store.open(record)
        return record

    def print(self, generation, *texts):
        lines = [log_files.line(KEY, generation, self.clock.now, "stdout", text) for text in texts]
        self.store.append(generation, lines)

    def end(self, record):
        self.store.close(msgspec.structs.replace(record, ended_at=self.clock.now, reason=EndReason.STOPPED))

    def size(self, generation=None):
        return sum(path.stat().st_size for path in self.root.rglob(f"{generation or '*'}/*.jsonl"))

    def reader(self, generation):
        directory = log_files.directory_of(self.root, KEY, generation)
        return SessionReader(directory, log_files.read_record(directory))


def texts(reader):
    found = []
    more = True
    while more:
        lines, more = reader.read()
        found += [line.text for line in lines]
    return found


def test_lines_are_json_objects_that_say_whose_they_are(tmp_path):
    disk = Disk(tmp_path)
    disk.open(7)
    disk.print(7, "tab\t and \x1b and ü and \u2028")
    (path,) = tmp_path.rglob("*.jsonl")
    told = json.loads(path.read_text())
    assert told == {
        "at": "2026-11-24T12:00:00Z",
        "stream": "stdout",
        "text": "tab\t and \x1b and ü and \u2028",
        "runtimeId": "agent-0123456789",
        "endpoint": "DEFAULT",
        "sessionId": "s" * 33,
        "generation": 7,
    }
    record = log_files.read_record(path.parent)
    assert record.log_group == "/aws/bedrock-agentcore/runtimes/agent-0123456789-DEFAULT"
    assert path.stat().st_mode & 0o77 == 0


def test_a_session_that_prints_too_much_keeps_its_newest_lines_within_its_bound(tmp_path):
    disk = Disk(tmp_path)
    disk.open(1)
    for start in range(0, 3000, 50):
        disk.print(1, *(f"line {number:06}" for number in range(start, start + 50)))
        assert disk.size() <= disk.bounds.max_session_bytes
    kept = texts(disk.reader(1))
    assert kept[0].startswith("-- earlier lines of this session have been removed")
    numbers = [int(text.split()[1]) for text in kept[1:]]
    assert numbers == list(range(numbers[0], 3000))
    assert disk.size() > disk.bounds.max_session_bytes // 2


def test_a_reader_that_keeps_up_gets_every_line_once_over_every_rotation(tmp_path):
    disk = Disk(tmp_path)
    disk.open(1)
    reader = disk.reader(1)
    got = []
    for number in range(4000):
        disk.print(1, f"line {number}")
        if number % 7 == 0:
            got += texts(reader)
    got += texts(reader)
    assert got == [f"line {number}" for number in range(4000)]


def test_over_the_total_the_sessions_that_ended_longest_ago_lose_their_lines_first(tmp_path):
    disk = Disk(tmp_path, max_total_bytes=112 * KIB)
    records = []
    for generation in range(1, 6):
        records.append(disk.open(generation))
        disk.print(generation, *["x" * 100] * 60)
        disk.clock.now += timedelta(seconds=1)
    for record in (records[1], records[0]):
        disk.end(record)
        disk.clock.now += timedelta(seconds=1)
    for _ in range(30):
        disk.print(5, *["y" * 100] * 20)
        assert disk.size() <= disk.bounds.max_total_bytes
        assert disk.store.total_bytes == disk.size()
    assert disk.size(2) == 0
    assert disk.size(3) > 0


def test_when_only_running_sessions_are_left_the_one_that_prints_most_pays(tmp_path):
    disk = Disk(tmp_path, max_total_bytes=64 * KIB)
    for generation in (1, 2):
        disk.open(generation)
    disk.print(2, "quiet")
    for _ in range(100):
        disk.print(1, *["x" * 100] * 50)
        assert disk.size() <= disk.bounds.max_total_bytes
    assert texts(disk.reader(2)) == ["quiet"]


def test_what_ended_before_the_retention_is_removed_with_its_directories(tmp_path):
    disk = Disk(tmp_path, retention=timedelta(days=7))
    old, running = disk.open(1), disk.open(2)
    disk.print(1, "old")
    disk.print(2, "still runs")
    disk.end(old)
    disk.clock.now += timedelta(days=8)
    disk.store.sweep()
    assert [record.generation for record in disk.store.records()] == [2]
    assert {path.name for path in (tmp_path / KEY.runtime_id / KEY.endpoint).iterdir()} == {"2"}
    disk.end(running)
    disk.clock.now += timedelta(days=8)
    disk.store.sweep()
    assert list(tmp_path.iterdir()) == []
    assert disk.store.total_bytes == 0


def test_logs_of_the_first_release_are_removed_in_time_too(tmp_path):
    disk = Disk(tmp_path)
    path = tmp_path / "agent-0123456789" / "DEFAULT" / "4294967297.log"
    path.parent.mkdir(parents=True)
    path.write_text("2026-01-01T00:00:00.000+00:00 stdout hello\n")
    age = (disk.clock.now - timedelta(days=8)).timestamp()
    os.utime(path, (age, age))
    disk.store.sweep()
    assert list(tmp_path.iterdir()) == []


def test_after_a_kill_whole_lines_are_left_and_the_session_has_ended(tmp_path):
    disk = Disk(tmp_path)
    disk.open(1)
    disk.print(1, "one", "two")
    (path,) = tmp_path.rglob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"at":"2026-11-24T12')
    half_made = tmp_path / KEY.runtime_id / KEY.endpoint / "2"
    half_made.mkdir()
    (record,) = disk.again().records()
    assert record.reason is EndReason.SERVER_DIED
    assert record.ended_at is not None
    assert texts(disk.reader(1)) == ["one", "two"]
    assert path.read_bytes().endswith(b"\n")
    assert not half_made.exists()


def test_lines_that_the_disk_did_not_take_are_counted_in_their_place(tmp_path):
    disk = Disk(tmp_path)
    disk.open(1)
    disk.print(1, "before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of files refuses writes as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (disk.size() + 10, before[1]))
    try:
        disk.print(1, "lost", "lost")
        disk.print(1, "lost")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    disk.print(1, "after")
    assert texts(disk.reader(1)) == ["before", "-- 3 lines were lost here: the disk did not take them --", "after"]


@pytest.mark.parametrize("count", [0, 1, 5, 150, 10_000])
def test_the_newest_lines_are_read_without_losing_what_follows(tmp_path, count):
    disk = Disk(tmp_path)
    disk.open(1)
    everything = [f"line {number}" for number in range(200)]
    disk.print(1, *everything[:190])
    reader = disk.reader(1)
    last = [line.text for line in reader.last_lines(count)]
    assert last == (everything[:190][-count:] if count else [])
    disk.print(1, *everything[190:])
    assert texts(reader) == everything[190:]
