"""What a zip says it holds, read as hostile input and without unpacking any of it.

For: `unpack`. The standard library's zipfile reads a directory of any length into memory before a limit can be
applied, cuts names at a NUL, and in older patch releases lets entries overlap; so the directory is read here, strictly,
and only what zip tools write is taken. Invariant: every entry returned has a relative, well-formed name below the
bundle, and a place for its data inside the file.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 and 4.4.
"""

from __future__ import annotations

import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, Final, NamedTuple

from freehold.artifacts.base import ArtifactRejected
from freehold.artifacts.source import printable
from freehold.domain import limits

MAX_NAME_BYTES: Final = 1024
MAX_PART_BYTES: Final = 255
MAX_DEPTH: Final = 100
"""Directories within directories; bounds every walk over a bundle."""
MAX_DIRECTORY_BYTES: Final = 64 * 1024 * 1024
STORED: Final = 0
DEFLATED: Final = 8

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s2B5H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_COMMENT: Final = 0xFFFF
_FULL_32: Final = 0xFFFFFFFF
_FLAG_ENCRYPTED: Final = 0x0001 | 0x0040 | 0x2000
_FLAG_PATCH: Final = 0x0020
_UNIX: Final = (3, 19)
"""Hosts (APPNOTE 4.4.2) whose external attributes hold a Unix mode: Unix, macOS."""
_DRIVE = re.compile(r"[A-Za-z]:")
_METHODS: Final = {9: "Deflate64", 12: "BZIP2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}

NOT_A_ZIP: Final = "Your artifact is not a ZIP file, or it is truncated."
DAMAGED: Final = "Your artifact's ZIP directory is damaged. Make the ZIP file again and upload it once more."


class Kind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "symbolic link"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `path` is relative, `/` between its parts, without `.` and `..`; empty for the root itself."""

    path: str
    raw_name: bytes
    kind: Kind
    executable: bool
    method: int
    crc: int
    compressed_bytes: int
    unpacked_bytes: int
    header_offset: int

    @property
    def shown(self) -> str:
        """The name as it may stand in a message."""
        return printable(self.path)


@dataclass(frozen=True, slots=True)
class Directory:
    """The entries in the order of their data, and where the last one's data must end."""

    entries: list[Entry]
    data_end: int


class _Place(NamedTuple):
    entries: int
    offset: int
    size: int


class _Central(NamedTuple):
    """A central directory header, APPNOTE 4.3.12."""

    signature: bytes
    made_by_version: int
    made_by_host: int
    needed_version: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    compressed_bytes: int
    unpacked_bytes: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    internal_attributes: int
    external_attributes: int
    header_offset: int


def read_directory(file: BinaryIO, size: int) -> Directory:
    """All entries of a zip of `size` bytes. Raises ArtifactRejected."""
    place = _find(file, size)
    if place.entries > limits.MAX_ZIP_ENTRIES:
        raise ArtifactRejected(
            f"Your artifact has {place.entries} files and directories; the maximum is {limits.MAX_ZIP_ENTRIES}."
        )
    if place.size > MAX_DIRECTORY_BYTES:
        raise ArtifactRejected(
            f"Your artifact's ZIP directory has {place.size} bytes; the maximum is {MAX_DIRECTORY_BYTES}."
        )
    entries = sorted(_entries(_read(file, place.offset, place.size), place), key=_by_offset)
    return Directory(entries, data_end=place.offset)


def data_offset(file: BinaryIO, entry: Entry) -> int:
    """Where the entry's data begins, by its local header. Raises ArtifactRejected when the two headers disagree."""
    head = _LOCAL.unpack(_read(file, entry.header_offset, _LOCAL.size))
    signature, flags, method, name_length, extra_length = head[0], head[2], head[3], head[9], head[10]
    name = _read(file, entry.header_offset + _LOCAL.size, name_length)
    if signature != b"PK\x03\x04" or method != entry.method or name != entry.raw_name or flags & _FLAG_ENCRYPTED:
        raise ArtifactRejected(DAMAGED)
    return entry.header_offset + _LOCAL.size + name_length + extra_length


# -- finding it ----------------------------------------------------------------------------------------------------


def _find(file: BinaryIO, size: int) -> _Place:
    tail_length = min(size, _END.size + _MAX_COMMENT)
    tail = _read(file, size - tail_length, tail_length)
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0:
        if len(tail) - at >= _END.size:
            end = _END.unpack_from(tail, at)
            if at + _END.size + end[7] == len(tail):
                return _place(file, size - tail_length + at, end)
        at = tail.rfind(b"PK\x05\x06", 0, at)
    raise ArtifactRejected(NOT_A_ZIP)


def _place(file: BinaryIO, end_offset: int, end: tuple[int, ...]) -> _Place:
    _, disk, directory_disk, count_here, count, size, offset, _ = end
    directory_end = end_offset
    locator = _locator(file, end_offset)
    if locator is not None:
        record = _END64.unpack(_read(file, locator, _END64.size))
        if record[0] != b"PK\x06\x06":
            raise ArtifactRejected(DAMAGED)
        disk, directory_disk, count_here, count, size, offset = record[4:]
        directory_end = locator
    if disk != 0 or directory_disk != 0 or count_here != count:
        raise ArtifactRejected("Your artifact is a part of a ZIP file that was split. Upload it as one file.")
    if offset + size != directory_end:
        raise ArtifactRejected(
            "Your artifact is a ZIP file with foreign data before or inside it. Make the ZIP file again."
        )
    return _Place(count, offset, size)


def _locator(file: BinaryIO, end_offset: int) -> int | None:
    """The offset of the ZIP64 end record, where there is one."""
    if end_offset < _END64_LOCATOR.size:
        return None
    signature, disk, offset, disks = _END64_LOCATOR.unpack(
        _read(file, end_offset - _END64_LOCATOR.size, _END64_LOCATOR.size)
    )
    if signature != b"PK\x06\x07":
        return None
    if disk != 0 or disks > 1 or offset > end_offset:
        raise ArtifactRejected(DAMAGED)
    return offset


# -- its entries ---------------------------------------------------------------------------------------------------


def _entries(data: bytes, place: _Place) -> Iterator[Entry]:
    at = 0
    for _ in range(place.entries):
        if len(data) - at < _CENTRAL.size:
            raise ArtifactRejected(DAMAGED)
        head = _Central._make(_CENTRAL.unpack_from(data, at))
        at += _CENTRAL.size
        extra_at = at + head.name_length
        comment_at = extra_at + head.extra_length
        if head.signature != b"PK\x01\x02" or comment_at + head.comment_length > len(data):
            raise ArtifactRejected(DAMAGED)
        yield _entry(head, data[at:extra_at], data[extra_at:comment_at], place.offset)
        at = comment_at + head.comment_length
    if at != len(data):
        raise ArtifactRejected(DAMAGED)


def _entry(head: _Central, name: bytes, extra: bytes, data_end: int) -> Entry:
    path, ends_as_directory = _path(name)
    shown = printable(path)
    if head.flags & _FLAG_ENCRYPTED:
        raise ArtifactRejected(f"Your artifact is encrypted ({shown}). Upload a ZIP file without a password.")
    if head.method not in (STORED, DEFLATED) or head.flags & _FLAG_PATCH:
        how = _METHODS.get(head.method, f"number {head.method}")
        raise ArtifactRejected(
            f"Your artifact has an entry with an unsupported compression method ({shown}: {how}). "
            "Use Deflate or none at all."
        )
    compressed_bytes, unpacked_bytes, offset = _sizes(head, extra)
    if offset + _LOCAL.size + len(name) + compressed_bytes > data_end:
        raise ArtifactRejected(DAMAGED)
    mode = head.external_attributes >> 16 if head.made_by_host in _UNIX else 0
    kind = _kind(mode, ends_as_directory, shown)
    if kind is Kind.DIRECTORY and unpacked_bytes:
        raise ArtifactRejected(f"Your artifact has a directory with data of its own ({shown}).")
    return Entry(
        path=path,
        raw_name=name,
        kind=kind,
        executable=bool(mode & 0o111),
        method=head.method,
        crc=head.crc,
        compressed_bytes=compressed_bytes,
        unpacked_bytes=unpacked_bytes,
        header_offset=offset,
    )


def _sizes(head: _Central, extra: bytes) -> tuple[int, int, int]:
    """(compressed bytes, unpacked bytes, header offset): of the entry itself, or of its ZIP64 extra field."""
    if head.disk != 0:
        raise ArtifactRejected(DAMAGED)
    wide = _extra_field(extra, 0x0001)
    values = iter(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))

    def widened(narrow: int) -> int:
        value = next(values, None) if narrow == _FULL_32 else narrow
        if value is None:
            raise ArtifactRejected(DAMAGED)
        return value

    # The extra field holds them in this order, and only those that the header has no room for.
    unpacked = widened(head.unpacked_bytes)
    compressed = widened(head.compressed_bytes)
    return compressed, unpacked, widened(head.header_offset)


def _extra_field(extra: bytes, wanted: int) -> bytes:
    at = 0
    while len(extra) - at >= 4:
        field, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if field == wanted:
            return extra[at : at + length]
        at += length
    return b""


def _kind(mode: int, ends_as_directory: bool, shown: str) -> Kind:
    file_type = stat.S_IFMT(mode)
    if file_type == stat.S_IFDIR or (file_type == 0 and ends_as_directory):
        return Kind.DIRECTORY
    if file_type in (0, stat.S_IFREG, stat.S_IFLNK) and not ends_as_directory:
        return Kind.LINK if file_type == stat.S_IFLNK else Kind.FILE
    raise ArtifactRejected(f"Your artifact holds something that is no file, directory or link ({shown}).")


def _path(name: bytes) -> tuple[str, bool]:
    """The normal form of a name, and whether it was written as a directory's."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise ArtifactRejected(
            f"Your artifact has a file name that is not UTF-8 ({printable(repr(name)[2:-1])})."
        ) from None
    shown = printable(text)
    if len(name) > MAX_NAME_BYTES:
        raise ArtifactRejected(f"Your artifact has a file name longer than {MAX_NAME_BYTES} bytes ({shown}).")
    if "\0" in text:
        raise ArtifactRejected(f"Your artifact has a file name with a NUL character ({shown}).")
    if "\\" in text:
        raise ArtifactRejected(
            f"Your artifact has a file name with a backslash ({shown}). Make the ZIP file with a tool that writes '/' "
            "between directories."
        )
    if not text or text.startswith("/") or _DRIVE.match(text):
        raise ArtifactRejected(f"Your artifact has an absolute or empty file name ({shown}).")
    written = text.removesuffix("/").split("/")
    parts = [part for part in written if part != "."]
    if ".." in parts or "" in parts:
        raise ArtifactRejected(f"Your artifact has a file name that leads outside of it ({shown}).")
    if len(parts) > MAX_DEPTH:
        raise ArtifactRejected(f"Your artifact has more than {MAX_DEPTH} directories inside each other ({shown}).")
    if any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        raise ArtifactRejected(
            f"Your artifact has a file or directory name longer than {MAX_PART_BYTES} bytes ({shown})."
        )
    return "/".join(parts), text.endswith("/") or not parts


def _by_offset(entry: Entry) -> int:
    return entry.header_offset


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        raise ArtifactRejected(NOT_A_ZIP)
    return data
