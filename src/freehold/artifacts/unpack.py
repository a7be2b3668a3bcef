"""Unpacks a zip into a new directory, believing nothing that the zip says about itself.

Not for reading the zip's directory (`zip_directory`) or for what the files mean (`prepare`). Invariant: nothing is
written outside of the target, and nothing is written before the whole plan of names, links and sizes has passed.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from freehold.artifacts import trees, zip_directory
from freehold.artifacts.base import ArtifactRejected
from freehold.artifacts.source import Stopped, printable
from freehold.artifacts.zip_directory import Entry, Kind
from freehold.domain import limits

MAX_LINKS: Final = 10_000
MAX_LINK_STEPS: Final = 40
"""Links followed for one name; the kernel gives up at the same number."""
_CHUNK: Final = 256 * 1024
_OUT_CHUNK: Final = 1024 * 1024


@dataclass(slots=True)
class _Plan:
    """What the target will hold. Keys are normal paths."""

    directories: dict[str, None] = field(default_factory=dict[str, None])
    """In an order in which they can be made."""
    leaves: dict[str, Entry] = field(default_factory=dict[str, Entry])
    """Files and links."""


def unpack(file: BinaryIO, size: int, target: Path, stop: threading.Event) -> None:
    """Unpack the zip `file` of `size` bytes into `target`, which must not exist. Blocking: for worker threads.

    Files become 0444, or 0555 when they are executable; directories stay writable by the owner until
    `trees.seal`. Raises ArtifactRejected, or Stopped soon after `stop` is set; then a part may lie in `target`.
    """
    if size > limits.MAX_ZIP_BYTES:
        raise ArtifactRejected(f"Your artifact has {size} bytes; the maximum is {limits.MAX_ZIP_BYTES}.")
    directory = zip_directory.read_directory(file, size)
    plan = _plan(directory.entries)
    _check_links_fit(plan)
    target.mkdir(mode=0o755)
    for name in plan.directories:
        _check(stop)
        (target / name).mkdir(mode=0o755)
    links: dict[str, str] = {}
    for entry, offset in _placed(file, directory):
        _check(stop)
        if entry.kind is Kind.FILE:
            _write(file, entry, offset, target / entry.path, stop)
        elif entry.kind is Kind.LINK:
            links[entry.path] = _link_target(file, entry, offset)
    for name, link_target in links.items():
        _check(stop)
        _check_stays_inside(name, links)
        (target / name).symlink_to(link_target)


# -- the plan ------------------------------------------------------------------------------------------------------


def _plan(entries: Iterable[Entry]) -> _Plan:
    plan = _Plan()
    total = 0
    for entry in entries:
        total += entry.unpacked_bytes
        if total > limits.MAX_UNZIPPED_BYTES:
            raise ArtifactRejected(
                f"Your artifact has more than {limits.MAX_UNZIPPED_BYTES} bytes when it is unpacked, which is the "
                "maximum."
            )
        above, _, _ = entry.path.rpartition("/")
        _add_directories(plan, entry.path if entry.kind is Kind.DIRECTORY else above, entry)
        if entry.kind is Kind.DIRECTORY:
            continue
        if entry.path in plan.leaves:
            raise ArtifactRejected(f"Your artifact holds {entry.shown} twice.")
        if entry.path in plan.directories:
            raise _clash(entry)
        plan.leaves[entry.path] = entry
    return plan


def _add_directories(plan: _Plan, path: str, entry: Entry) -> None:
    """Add `path` and what is above it. The names above are counted too: a short zip can ask for very many."""
    missing: list[str] = []
    while path and path not in plan.directories:
        if path in plan.leaves:
            raise _clash(entry)
        missing.append(path)
        path, _, _ = path.rpartition("/")
    plan.directories.update(dict.fromkeys(reversed(missing)))
    if len(plan.directories) + len(plan.leaves) > limits.MAX_ZIP_ENTRIES:
        raise ArtifactRejected(f"Your artifact has more than {limits.MAX_ZIP_ENTRIES} files and directories.")


def _clash(entry: Entry) -> ArtifactRejected:
    return ArtifactRejected(f"Your artifact has both a file and a directory in one place ({entry.shown}).")


def _check_links_fit(plan: _Plan) -> None:
    if sum(entry.kind is Kind.LINK for entry in plan.leaves.values()) > MAX_LINKS:
        raise ArtifactRejected(f"Your artifact has more than {MAX_LINKS} symbolic links.")


# -- data ----------------------------------------------------------------------------------------------------------


def _placed(file: BinaryIO, directory: zip_directory.Directory) -> Generator[tuple[Entry, int]]:
    """Every entry with the offset of its data. Raises ArtifactRejected when two share bytes, as zip bombs do."""
    free_from = 0
    for entry in directory.entries:
        offset = zip_directory.data_offset(file, entry)
        end = offset + entry.compressed_bytes
        if entry.header_offset < free_from or end > directory.data_end:
            raise ArtifactRejected(f"Your artifact has entries that overlap ({entry.shown}).")
        free_from = end
        yield entry, offset


def _contents(file: BinaryIO, entry: Entry, offset: int) -> Generator[bytes]:
    """The entry's bytes, no more than it declares. Raises ArtifactRejected when they aren't what it declares."""
    crc, left = 0, entry.unpacked_bytes
    pieces = _stored(file, entry, offset) if entry.method == zip_directory.STORED else _inflated(file, entry, offset)
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
        left -= len(piece)
        if left < 0:
            raise _damaged(entry)
        yield piece
    if left != 0 or crc != entry.crc:
        raise _damaged(entry)


def _stored(file: BinaryIO, entry: Entry, offset: int) -> Generator[bytes]:
    file.seek(offset)
    left = entry.compressed_bytes
    while left:
        piece = file.read(min(left, _CHUNK))
        if not piece:
            raise _damaged(entry)
        left -= len(piece)
        yield piece


def _inflated(file: BinaryIO, entry: Entry, offset: int) -> Generator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in _stored(file, entry, offset):
            if inflater.eof:
                raise _damaged(entry)
            pending = piece
            while True:
                out = inflater.decompress(pending, _OUT_CHUNK)
                yield out
                pending = inflater.unconsumed_tail
                if not pending and len(out) < _OUT_CHUNK:
                    break
    except zlib.error as error:
        raise _damaged(entry) from error
    if not inflater.eof or inflater.unused_data:
        raise _damaged(entry)


def _write(file: BinaryIO, entry: Entry, offset: int, path: Path, stop: threading.Event) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    with open(fd, "wb", buffering=0) as out:  # noqa: PTH123 - a descriptor, not a path
        for piece in _contents(file, entry, offset):
            _check(stop)
            view = memoryview(piece)
            while view:
                view = view[out.write(view) :]
        os.fchmod(fd, trees.SEALED_EXECUTABLE if entry.executable else trees.SEALED_FILE)


def _damaged(entry: Entry) -> ArtifactRejected:
    return ArtifactRejected(
        f"Your artifact is damaged: {entry.shown} does not have the size or checksum that the ZIP file declares."
    )


# -- links ---------------------------------------------------------------------------------------------------------


def _link_target(file: BinaryIO, entry: Entry, offset: int) -> str:
    if entry.unpacked_bytes > zip_directory.MAX_NAME_BYTES:
        raise _bad_link(entry.path, "its target is too long")
    raw = b"".join(_contents(file, entry, offset))
    try:
        target = raw.decode()
    except UnicodeDecodeError:
        raise _bad_link(entry.path, "its target is not UTF-8") from None
    if not target or "\0" in target or target.count("/") > zip_directory.MAX_DEPTH:
        raise _bad_link(entry.path, "its target is no path")
    if target.startswith("/"):
        raise _bad_link(entry.path, "its target is absolute")
    return target


def _check_stays_inside(name: str, links: dict[str, str]) -> None:
    """Walk from the bundle's root to where the link `name` leads, as the kernel would. Raises ArtifactRejected."""
    todo = name.split("/")[::-1]
    current: list[str] = []
    steps = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not current:
                raise _bad_link(name, "it leads outside of the artifact")
            current.pop()
            continue
        current.append(part)
        target = links.get("/".join(current))
        if target is not None:
            steps += 1
            if steps > MAX_LINK_STEPS:
                raise _bad_link(name, "it leads through too many links")
            current.pop()
            todo.extend(reversed(target.split("/")))


def _bad_link(name: str, why: str) -> ArtifactRejected:
    return ArtifactRejected(f"Your artifact has a symbolic link that can't be kept ({printable(name)}: {why}).")


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopped
