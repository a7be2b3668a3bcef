"""Zips, good and hostile, unpacked. The oracle for good ones is the standard library's zipfile."""

from __future__ import annotations

import io
import stat
import struct
import threading
import zipfile
from pathlib import Path

import pytest
from artifact_zips import DOS, Item, craft
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.artifacts import trees, unpack, zip_directory
from freehold.artifacts.base import ArtifactRejected
from freehold.domain import limits


def unpacked(data: bytes, target: Path) -> Path:
    unpack.unpack(io.BytesIO(data), len(data), target, threading.Event())
    return target


def refusal(data: bytes, tmp_path: Path) -> str:
    with pytest.raises(ArtifactRejected) as caught:
        unpacked(data, tmp_path / "bundle")
    return str(caught.value)


def files_below(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def zipped(contents: dict[str, bytes], **options: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:  # type: ignore[arg-type]
        for name, data in contents.items():
            archive.writestr(name, data)
    return buffer.getvalue()


SAMPLE = {"main.py": b"print(1)\n", "pkg/__init__.py": b"", "pkg/data.bin": bytes(range(256)) * 5000}


# -- good ones -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_unpacked_byte_for_byte(tmp_path: Path, method: int) -> None:
    assert files_below(unpacked(zipped(SAMPLE, compression=method), tmp_path / "bundle")) == SAMPLE


class Unseekable(io.RawIOBase):
    """Makes zipfile write sizes after the data, as tools do that write into a pipe."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += data
        return len(data)


def test_a_zip_written_as_a_stream_is_unpacked(tmp_path: Path) -> None:
    out = Unseekable()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in SAMPLE.items():
            archive.writestr(name, data)
    assert files_below(unpacked(bytes(out.data), tmp_path / "bundle")) == SAMPLE


def test_zip64_local_headers_are_understood(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("main.py", "w", force_zip64=True) as out:
        out.write(b"pass\n")
    assert files_below(unpacked(buffer.getvalue(), tmp_path / "bundle")) == {"main.py": b"pass\n"}


def zip64(data: bytes) -> bytes:
    """The same zip with its directory told by ZIP64 records, as if it were too large for the ordinary ones."""
    end = data.rfind(b"PK\x05\x06")
    _, _, _, _, count, size, offset, _ = struct.unpack("<4s4H2LH", data[end:])
    directory = bytearray(data[offset:end])
    at = grown = 0
    while at < len(directory):
        fields = list(struct.unpack_from("<4s2B5H3L5H2L", directory, at))
        extra = struct.pack("<2H3Q", 1, 24, fields[10], fields[9], fields[17])
        fields[9] = fields[10] = fields[17] = 0xFFFFFFFF
        name_end = at + 46 + fields[11]
        fields[12] = len(extra)
        struct.pack_into("<4s2B5H3L5H2L", directory, at, *fields)
        directory[name_end:name_end] = extra
        at, grown = name_end + len(extra), grown + len(extra)
    record_at = offset + len(directory)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size + grown, offset)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, record_at, 1)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:offset] + bytes(directory) + record + locator + last


def test_a_zip64_directory_is_understood_as_zipfile_understands_it(tmp_path: Path) -> None:
    data = zip64(zipped(SAMPLE, compression=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == SAMPLE
    assert files_below(unpacked(data, tmp_path / "bundle")) == SAMPLE


def test_a_comment_may_follow_even_one_that_looks_like_an_end_record(tmp_path: Path) -> None:
    data = craft([Item(b"main.py", b"x")], comment=b"PK\x05\x06" + b"\0" * 30)
    assert files_below(unpacked(data, tmp_path / "bundle")) == {"main.py": b"x"}


def test_names_are_utf8_and_dots_as_parts_are_dropped(tmp_path: Path) -> None:
    data = craft([Item(b"./", mode=0o040755), Item("./gr\u00fc\u00df/./\u4f60.txt".encode(), b"x")])
    assert files_below(unpacked(data, tmp_path / "bundle")) == {"gr\u00fc\u00df/\u4f60.txt": b"x"}


def test_directories_may_be_told_twice_and_in_any_order(tmp_path: Path) -> None:
    data = craft([Item(b"a/b/c", b"x"), Item(b"a/", mode=0o040755), Item(b"a/", mode=0), Item(b"e/", host=DOS)])
    root = unpacked(data, tmp_path / "bundle")
    assert files_below(root) == {"a/b/c": b"x"}
    assert (root / "e").is_dir()


def test_of_permissions_only_the_executable_bit_is_kept(tmp_path: Path) -> None:
    modes = {b"plain": 0o100600, b"run": 0o100700, b"setuid": 0o104755, b"sticky": 0o103777, b"none": 0o100000}
    root = unpacked(craft([Item(name, b"x", mode) for name, mode in modes.items()]), tmp_path / "bundle")
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in root.iterdir()}
    assert found == {"plain": 0o444, "run": 0o555, "setuid": 0o555, "sticky": 0o555, "none": 0o444}


def test_modes_of_a_zip_made_on_windows_mean_nothing(tmp_path: Path) -> None:
    root = unpacked(craft([Item(b"main.py", b"x", mode=0o120777, host=DOS)]), tmp_path / "bundle")
    assert stat.S_IMODE((root / "main.py").lstat().st_mode) == 0o444


def test_an_empty_zip_is_an_empty_directory(tmp_path: Path) -> None:
    assert list(unpacked(craft([]), tmp_path / "bundle").iterdir()) == []


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0:"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.dictionaries(NAMES, st.binary(max_size=2000), max_size=8), method=st.sampled_from([0, 8]))
def test_what_zipfile_packs_is_unpacked(tmp_path: Path, contents: dict[str, bytes], method: int) -> None:
    target = tmp_path / "bundle"
    try:
        found = files_below(unpacked(zipped(contents, compression=method), target))
        assert found == contents
    finally:
        trees.remove(target)


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (b"../evil", "leads outside"),
        (b"a/../../evil", "leads outside"),
        (b"a/..", "leads outside"),
        (b"a//b", "leads outside"),
        (b"/etc/passwd", "absolute"),
        (b"/", "absolute"),
        (b"", "absolute or empty"),
        (b"C:/windows", "absolute"),
        (b"c:evil", "absolute"),
        (b"a\\b", "backslash"),
        (b"..\\evil", "backslash"),
        (b"a\0b", "NUL"),
        (b"caf\xe9.py", "not UTF-8"),
        (b"a" * 256, "longer than 255 bytes"),
        (b"/".join([b"a" * 200] * 6), "longer than 1024 bytes"),
        (b"/".join([b"a"] * 101), "more than 100 directories"),
    ],
)
def test_a_name_that_is_no_place_in_the_bundle_is_refused(tmp_path: Path, name: bytes, said: str) -> None:
    assert said in refusal(craft([Item(b"main.py", b"x"), Item(name, b"x")]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_message_never_carries_control_characters_of_a_name(tmp_path: Path) -> None:
    message = refusal(craft([Item(b"../\x1b[2J\n", b"x")]), tmp_path)
    assert message.isprintable()


@pytest.mark.parametrize(
    "items",
    [
        [Item(b"a", b"1"), Item(b"a", b"2")],
        [Item(b"a", b"1"), Item(b"./a", b"2")],
        [Item(b"a", b"1"), Item(b"a/b", b"2")],
        [Item(b"a/b", b"2"), Item(b"a", b"1")],
        [Item(b"a", b"1"), Item(b"a/", mode=0o040755)],
        [Item(b"a", b"/tmp", mode=0o120777), Item(b"a/b", b"2")],
    ],
)
def test_two_things_in_one_place_are_refused(tmp_path: Path, items: list[Item]) -> None:
    message = refusal(craft(items), tmp_path)
    assert "twice" in message or "both a file and a directory" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_devices_pipes_and_sockets_are_refused(tmp_path: Path, mode: int) -> None:
    assert "no file, directory or link (dev)" in refusal(craft([Item(b"dev", b"", mode | 0o666)]), tmp_path)


# -- links ---------------------------------------------------------------------------------------------------------


def link(name: bytes, target: bytes) -> Item:
    return Item(name, target, mode=0o120777)


def test_links_that_stay_inside_are_kept(tmp_path: Path) -> None:
    items = [Item(b"lib/x.so.1", b"x"), link(b"lib/x.so", b"x.so.1"), link(b"top", b"./lib/../lib/x.so")]
    root = unpacked(craft([*items, link(b"nowhere", b"not/there")]), tmp_path / "bundle")
    assert (root / "lib/x.so").readlink() == Path("x.so.1")
    assert (root / "top").read_bytes() == b"x"
    assert (root / "nowhere").is_symlink()


@pytest.mark.parametrize(
    "items",
    [
        [link(b"a", b"/etc/passwd")],
        [link(b"a", b"../x")],
        [link(b"d/a", b"../../x")],
        [link(b"a", b"")],
        [link(b"a", b"b\0c")],
        [link(b"a", b"\xff")],
        [link(b"a", b"x" * 2000)],
        [link(b"a", b"a")],
        [link(b"a", b"b"), link(b"b", b"a")],
        # By text alone m leads to d/x; by way of the link d/up it leads outside.
        [link(b"d/up", b".."), link(b"m", b"d/up/../x")],
    ],
)
def test_links_that_lead_outside_or_nowhere_at_all_are_refused(tmp_path: Path, items: list[Item]) -> None:
    assert "symbolic link that can't be kept" in refusal(craft(items), tmp_path)


def test_a_chain_of_links_that_the_kernel_would_not_follow_is_refused(tmp_path: Path) -> None:
    chain = [link(b"l%d" % n, b"l%d" % (n + 1)) for n in range(41)]
    assert "too many links" in refusal(craft(chain), tmp_path)


def test_the_number_of_links_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MAX_LINKS", 3)
    assert "more than 3 symbolic links" in refusal(craft([link(b"l%d" % n, b"x") for n in range(4)]), tmp_path)


# -- lies about data -----------------------------------------------------------------------------------------------


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    assert "main.py does not have" in refusal(craft([Item(b"main.py", b"x", crc=1)]), tmp_path)


@pytest.mark.parametrize("method", [0, 8])
@pytest.mark.parametrize("size", [0, 10, 5000])
def test_data_of_another_size_than_declared_is_refused(tmp_path: Path, method: int, size: int) -> None:
    data = craft([Item(b"main.py", b"x" * 1000, method=method, size=size)])
    assert "does not have the size" in refusal(data, tmp_path)


def test_a_bomb_that_declares_little_is_stopped_at_what_it_declares(tmp_path: Path) -> None:
    data = craft([Item(b"bomb", b"\0" * 50_000_000, size=10)])
    assert "does not have the size" in refusal(data, tmp_path)
    assert (tmp_path / "bundle/bomb").stat().st_size <= 1024 * 1024


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    items = [Item(b"a", b"x" * 100), Item(b"a2", b"x" * 100, at=0, local_name=b"a2")]
    first, second = Item(b"a", b"x" * 100), Item(b"a", b"x" * 100, at=0)
    assert refusal(craft(items), tmp_path)
    assert "twice" in refusal(craft([first, second]), tmp_path)


def test_an_entry_hidden_in_another_ones_data_is_refused(tmp_path: Path) -> None:
    inner = craft([Item(b"inner", b"y" * 10, method=0)])
    outer = Item(b"outer", inner, method=0)
    at = 30 + len(b"outer")
    data = craft([outer, Item(b"inner", b"y" * 10, method=0, at=at)])
    assert "overlap (inner)" in refusal(data, tmp_path)


def test_headers_that_disagree_on_a_name_are_refused(tmp_path: Path) -> None:
    assert refusal(craft([Item(b"main.py", b"x", local_name=b"evil.py")]), tmp_path) == zip_directory.DAMAGED


def test_encrypted_entries_are_refused(tmp_path: Path) -> None:
    assert "without a password" in refusal(craft([Item(b"main.py", b"x", flags=1)]), tmp_path)


@pytest.mark.parametrize(("method", "said"), [(12, "BZIP2"), (14, "LZMA"), (93, "Zstandard"), (77, "number 77")])
def test_other_compressions_than_deflate_are_refused(tmp_path: Path, method: int, said: str) -> None:
    assert f"(main.py: {said})" in refusal(craft([Item(b"main.py", b"x", method=method)]), tmp_path)


def test_a_directory_with_data_is_refused(tmp_path: Path) -> None:
    assert "directory with data" in refusal(craft([Item(b"d/", b"x", mode=0o040755)]), tmp_path)


# -- lies about itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"PK", b"hello", b"\x1f\x8b" + b"\0" * 100, b"PK\x05\x06"])
def test_what_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    assert refusal(data, tmp_path) == zip_directory.NOT_A_ZIP


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = zipped({"main.py": b"print(1)", "b": b"x" * 50})
    for length in range(len(data)):
        assert refusal(data[:length], tmp_path)
        trees.remove(tmp_path / "bundle")


def test_foreign_data_in_front_is_refused(tmp_path: Path) -> None:
    plain = craft([Item(b"main.py", b"x")])
    assert "foreign data" in refusal(b"#!/bin/sh\n" + plain, tmp_path)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_entries_is_refused(tmp_path: Path, count: int) -> None:
    data = craft([Item(b"a", b"x"), Item(b"b", b"x")], count=count)
    assert refusal(data, tmp_path) == zip_directory.DAMAGED


def test_too_many_entries_are_refused_before_they_are_read(tmp_path: Path) -> None:
    items = [Item(b"a", b"x")]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    plain = craft(items)[:-22]
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2**40, 2**40, 47, len(plain) - 47)
    data = plain + record + struct.pack("<4sLQL", b"PK\x06\x07", 0, len(plain), 1) + end
    assert f"{2**40} files" in refusal(data, tmp_path)


def test_directories_that_are_only_implied_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ZIP_ENTRIES", 50)
    data = craft([Item(b"/".join([b"%d" % n] * 20) + b"/f", b"") for n in range(3)])
    assert "more than 50 files and directories" in refusal(data, tmp_path)


def test_the_unpacked_size_is_bounded_by_what_is_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_UNZIPPED_BYTES", 1000)
    assert files_below(unpacked(craft([Item(b"a", b"x" * 1000)]), tmp_path / "whole"))
    trees.remove(tmp_path / "whole")
    assert "more than 1000 bytes" in refusal(craft([Item(b"a", b"x" * 600), Item(b"b", b"x" * 401)]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_packed_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ZIP_BYTES", 100)
    assert "the maximum is 100" in refusal(craft([Item(b"a", b"x" * 600, method=0)]), tmp_path)


def test_unpacking_stops_when_it_is_told_to(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    data = zipped(SAMPLE)
    with pytest.raises(unpack.Stopped):
        unpack.unpack(io.BytesIO(data), len(data), tmp_path / "bundle", stop)


# -- anything ------------------------------------------------------------------------------------------------------

SEED = craft(
    [Item(b"main.py", b"print(1)\n" * 30), Item(b"d/", mode=0o040755), link(b"d/l", b"../main.py"), Item(b"d/x", b"y")]
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 40),
    wide=st.booleans(),
)
def test_a_damaged_zip_is_refused_or_unpacked_inside(
    tmp_path: Path, edits: list[tuple[int, int]], cut: int, wide: bool
) -> None:
    data = bytearray(zip64(SEED) if wide else SEED)
    for at, value in edits:
        data[at] = value
    place = tmp_path / "place"
    place.mkdir()
    refused = ""
    try:
        unpacked(bytes(data[: len(data) - cut]), place / "bundle")
    except ArtifactRejected as rejected:
        refused = str(rejected)
    root = (place / "bundle").resolve()
    assert refused.isprintable()
    assert refused or all(path.resolve().is_relative_to(root) for path in root.rglob("*"))
    assert {path.name for path in place.iterdir()} <= {"bundle"}
    trees.remove(place)
    assert list(tmp_path.iterdir()) == []
