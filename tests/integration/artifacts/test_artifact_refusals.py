"""Malicious and broken archives, each through the whole of preparation: a reason, and nothing left anywhere."""

from __future__ import annotations

import asyncio
import os
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from artifact_parts import opened_cache, preparer_of, zipped
from artifact_zips import Item, craft, zeros
from node_22 import NODE

from freehold.artifacts.base import ArtifactRejected, CodeArtifact, S3Object
from freehold.artifacts.interpreters import Interpreters
from freehold.domain import limits

PYTHON = f"PYTHON_3_{sys.version_info.minor}"
MAIN = Item(b"main.py", b"print(1)")
INTERPRETERS = Interpreters({"NODE_22": str(NODE)})
DIRECTORY = 0o040755
LINK = 0o120777
NO_ZIP = "Your artifact is not a ZIP file, or it is truncated."
DAMAGED = "Your artifact's ZIP directory is damaged."


def with_main(*items: Item, **options: int) -> bytes:
    return craft([MAIN, *items], **options)  # type: ignore[arg-type]


def link(name: bytes, target: bytes) -> Item:
    return Item(name, target, mode=LINK)


def elf(machine: int, *, order: str = "<") -> bytes:
    """The header of a shared library (elf(5)) for a machine."""
    identity = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9)
    return identity + struct.pack(f"{order}HHIQQQIHHHHHH", 3, machine, 1, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0)


OTHER_MACHINE = 183 if os.uname().machine != "aarch64" else 62
OTHER_NAME = "ARM64" if OTHER_MACHINE == 183 else "x86-64"


def too_many_entries() -> bytes:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    plain = with_main()[:-22]
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2**40, 2**40, 47, len(plain) - 47)
    return plain + record + struct.pack("<4sLQL", b"PK\x06\x07", 0, len(plain), 1) + end


def real_bomb() -> bytes:
    """800 MB of zeros in less than one."""
    bomb = with_main(*(zeros(b"zeros-%d" % number, 100) for number in range(8)))
    assert len(bomb) < 1024 * 1024
    return bomb


def quine_like() -> bytes:
    """Many names for the same compressed data, as the densest bombs have."""
    kernel = Item(b"0", bytes(1_000_000))
    return craft([kernel, *(Item(b"0", bytes(1_000_000), at=0) for _ in range(50))])


def multi_disk() -> bytes:
    data = bytearray(with_main())
    struct.pack_into("<H", data, len(data) - 22 + 4, 1)
    return bytes(data)


def wrong_directory_offset() -> bytes:
    data = bytearray(with_main())
    struct.pack_into("<L", data, len(data) - 22 + 16, 3)
    return bytes(data)


def corrupted_data() -> bytes:
    data = bytearray(zipped({"main.py": os.urandom(1000)}))
    data[60] ^= 0xFF
    return bytes(data)


def old_node_package() -> bytes:
    manifest = b'{"name": "old", "version": "1.0.0", "engines": {"node": "<=16"}}'
    return zipped({"main.js": b"", "node_modules/old/package.json": manifest})


CASES: list[tuple[str, bytes, str]] = [
    # Names that lead elsewhere.
    ("a parent directory", with_main(Item(b"../escaped", b"x")), "leads outside of it (../escaped)"),
    ("a parent directory further down", with_main(Item(b"a/../../escaped", b"x")), "leads outside of it"),
    ("many parent directories", with_main(Item(b"../" * 40 + b"tmp/escaped", b"x")), "leads outside of it"),
    ("an absolute name", with_main(Item(b"/tmp/freehold-escaped", b"x")), "absolute or empty file name"),
    ("a drive letter", with_main(Item(b"C:/escaped", b"x")), "absolute or empty file name"),
    ("backslashes", with_main(Item(b"..\\..\\escaped", b"x")), "backslash"),
    ("an empty name", with_main(Item(b"", b"x")), "absolute or empty file name"),
    ("a NUL in a name", with_main(Item(b"main.py\0.txt", b"x")), "NUL character"),
    ("a name that is not UTF-8", with_main(Item(b"\xff\xfe", b"x")), "not UTF-8"),
    ("a name with a terminal's control codes", with_main(Item(b"../\x1b[2J", b"x")), "leads outside of it"),
    ("a part of a name that is too long", with_main(Item(b"n" * 256, b"x")), "longer than 255 bytes"),
    ("a name that is too long", with_main(Item(b"/".join([b"n" * 200] * 6), b"x")), "longer than 1024 bytes"),
    ("too many directories in each other", with_main(Item(b"d/" * 101 + b"f", b"x")), "more than 100 directories"),
    # Things that are no files.
    ("a character device", with_main(Item(b"dev", b"", stat.S_IFCHR | 0o666)), "no file, directory or link"),
    ("a block device", with_main(Item(b"dev", b"", stat.S_IFBLK | 0o666)), "no file, directory or link"),
    ("a named pipe", with_main(Item(b"pipe", b"", stat.S_IFIFO | 0o666)), "no file, directory or link"),
    ("a socket", with_main(Item(b"socket", b"", stat.S_IFSOCK | 0o666)), "no file, directory or link"),
    ("a directory with data", with_main(Item(b"d/", b"x", mode=DIRECTORY)), "a directory with data of its own"),
    # Links.
    ("a link to an absolute place", with_main(link(b"l", b"/etc/passwd")), "l: its target is absolute"),
    ("a link to the parent", with_main(link(b"l", b"..")), "l: it leads outside"),
    ("a link out through a link", with_main(link(b"d/up", b".."), link(b"l", b"d/up/../x")), "it leads outside"),
    ("a file below a link", with_main(link(b"l", b"/tmp"), Item(b"l/escaped", b"x")), "both a file and a directory"),
    ("a link in the place of a file", with_main(link(b"main.py", b"/etc/passwd")), "holds main.py twice"),
    ("a link to itself", with_main(link(b"l", b"l")), "too many links"),
    ("two links to each other", with_main(link(b"a", b"b"), link(b"b", b"a")), "too many links"),
    ("a link with a NUL", with_main(link(b"l", b"a\0b")), "its target is no path"),
    ("a link with an endless target", with_main(link(b"l", b"x/" * 4000)), "its target is too long"),
    # Names twice.
    ("a file twice", with_main(Item(b"main.py", b"x")), "holds main.py twice"),
    ("a file twice by another spelling", with_main(Item(b"./main.py", b"x")), "holds main.py twice"),
    ("a file and a directory in one place", with_main(Item(b"main.py/x", b"x")), "both a file and a directory"),
    # Bombs.
    ("a bomb that admits what it is", real_bomb(), "more than 786432000 bytes when it is unpacked"),
    ("a bomb that declares little", with_main(zeros(b"bomb", 48, size=10)), "size or checksum"),
    ("a bomb of one piece of data under many names", quine_like(), "twice"),
    ("data that overlaps", with_main(Item(b"b", b"print(1)", at=0, local_name=b"b")), "disagree|damaged|overlap"),
    ("more entries than anybody has", too_many_entries(), f"Your artifact has {2**40} files"),
    # Lies and damage.
    ("an encrypted entry", with_main(Item(b"secret", b"x", flags=1)), "encrypted (secret)"),
    ("a compression that nobody has", with_main(Item(b"x", b"x", method=77)), "(x: number 77)"),
    ("LZMA", with_main(Item(b"x", b"x", method=14)), "(x: LZMA)"),
    ("a wrong checksum", with_main(Item(b"x", b"x", crc=1)), "x does not have the size or checksum"),
    ("less data than declared", with_main(Item(b"x", b"x", size=1000)), "x does not have the size or checksum"),
    ("damaged data", corrupted_data(), "main.py does not have the size or checksum"),
    ("headers that disagree", with_main(Item(b"good", b"x", local_name=b"evil")), DAMAGED),
    ("a wrong number of entries", with_main(count=2), DAMAGED),
    ("a directory that is not where it should be", wrong_directory_offset(), "foreign data"),
    ("a program in front", b"#!/bin/sh\nexit\n" + with_main(), "foreign data"),
    ("a part of a split archive", multi_disk(), "a part of a ZIP file that was split"),
    ("a truncated archive", with_main()[:-1], NO_ZIP),
    ("the beginning of an archive", with_main()[:30], NO_ZIP),
    ("an empty file", b"", NO_ZIP),
    ("a gzipped tar", b"\x1f\x8b\x08" + bytes(1000), NO_ZIP),
    ("text", b"print('hello')\n" * 100, NO_ZIP),
    # Archives that hold no agent for this machine.
    ("nothing", craft([]), "The specified entrypoint could not be found"),
    ("no entry point", craft([Item(b"other.py", b"x")]), "The specified entrypoint could not be found"),
    ("an entry point that is a directory", craft([Item(b"main.py/", mode=DIRECTORY)]), "entrypoint could not be found"),
    ("an entry point that leads nowhere", craft([link(b"main.py", b"gone.py")]), "entrypoint could not be found"),
    (
        "a library for another machine",
        with_main(Item(b"numpy/core.cpython-311-other.so", elf(OTHER_MACHINE))),
        f"The first is numpy/core.cpython-311-other.so, built for {OTHER_NAME}.",
    ),
    ("a library for a big-endian machine", with_main(Item(b"x.so", elf(22, order=">"))), "built for S390"),
    ("a library for macOS", with_main(Item(b"x.so", b"\xcf\xfa\xed\xfe" + bytes(28))), "built for macOS"),
    ("a Node.js package for an older release", old_node_package(), "incompatible with the target Node.js version"),
]


def snapshot(root: Path) -> dict[str, tuple[int, int, int]]:
    """Every path below `root`, and what changes when it does."""
    found: dict[str, tuple[int, int, int]] = {}
    for path in [root, *root.rglob("*")]:
        about = path.lstat()
        found[str(path)] = (about.st_mode, about.st_size, about.st_mtime_ns)
    return found


@pytest.fixture
def outside() -> Iterator[list[Path]]:
    """Places that the archives aim at, which must not come to be."""
    places = [Path("/tmp/escaped"), Path("/tmp/freehold-escaped")]
    assert not any(place.exists() for place in places)
    yield places
    found = [place for place in places if place.exists()]
    for place in found:
        place.unlink()
    assert found == []


def test_there_are_at_least_forty_different_ones() -> None:
    assert len({data for _, data, _ in CASES}) >= 40
    assert len({name for name, _, _ in CASES}) == len(CASES)


@pytest.mark.parametrize(("data", "said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_it_is_refused_with_a_reason_and_leaves_nothing(
    data: bytes, said: str, tmp_path: Path, outside: list[Path]
) -> None:
    buckets = tmp_path / "data" / "buckets"
    (buckets / "code").mkdir(parents=True)
    (buckets / "code" / "agent.zip").write_bytes(data)
    preparer = preparer_of(buckets, opened_cache(tmp_path / "data" / "artifacts"), INTERPRETERS)
    before = snapshot(tmp_path)
    is_node = data.find(b"main.js") >= 0
    artifact = CodeArtifact(
        S3Object("code", "agent.zip"), "NODE_22" if is_node else PYTHON, ("main.js" if is_node else "main.py",)
    )
    with pytest.raises(ArtifactRejected) as caught:
        asyncio.run(preparer.prepare(artifact))
    message = str(caught.value)
    assert any(part in message for part in said.split("|"))
    assert message.isprintable()
    assert len(message) < 1000
    after = snapshot(tmp_path)
    cache = str(tmp_path / "data" / "artifacts")
    assert after.keys() == before.keys()
    assert {path: about for path, about in after.items() if path != cache} == {
        path: about for path, about in before.items() if path != cache
    }


def test_an_archive_that_is_too_large_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    buckets = tmp_path / "buckets"
    (buckets / "code").mkdir(parents=True)
    with (buckets / "code" / "agent.zip").open("wb") as sparse:
        sparse.truncate(limits.MAX_ZIP_BYTES + 1)
    preparer = preparer_of(buckets, opened_cache(tmp_path / "artifacts"), INTERPRETERS)
    with pytest.raises(ArtifactRejected, match="has 262144001 bytes"):
        preparer.look(CodeArtifact(S3Object("code", "agent.zip"), "PYTHON_3_11", ("main.py",)))
