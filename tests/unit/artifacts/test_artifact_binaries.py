"""Native libraries in a bundle: built for this machine or another."""

from __future__ import annotations

import struct
import sys
import sysconfig
from pathlib import Path

import pytest

from freehold.artifacts import binaries
from freehold.artifacts.base import ArtifactRejected

X86_64, ARM64, I386, S390 = 62, 183, 3, 22


def elf(machine: int, *, big_endian: bool = False) -> bytes:
    order, data = (">", 2) if big_endian else ("<", 1)
    return b"\x7fELF" + bytes([2, data, 1]) + bytes(9) + struct.pack(f"{order}2H", 3, machine) + bytes(40)


@pytest.fixture
def host(tmp_path: Path) -> str:
    path = tmp_path / "python"
    path.write_bytes(elf(X86_64))
    return str(path)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle" / "pkg").mkdir(parents=True)
    return tmp_path / "bundle"


def test_libraries_of_this_machine_are_taken(bundle: Path) -> None:
    dynload = Path(sysconfig.get_path("platstdlib"), "lib-dynload")
    libraries = list(dynload.glob("*.so"))[:3]
    for library in libraries:
        (bundle / library.name).write_bytes(library.read_bytes())
    binaries.check(bundle, sys.executable)


@pytest.mark.parametrize("name", ["pkg/x.so", "pkg/x.cpython-311-aarch64-linux-gnu.so", "pkg/x.node", "libx.so.1.2"])
def test_a_library_of_another_machine_is_refused_by_name(bundle: Path, host: str, name: str) -> None:
    (bundle / name).write_bytes(elf(ARM64))
    with pytest.raises(ArtifactRejected) as caught:
        binaries.check(bundle, host)
    assert str(caught.value) == (
        f"Your artifact contains binary files that are incompatible with Linux x86-64. The first is {name}, built for "
        "ARM64. Package it again with dependencies for this machine (with uv: --python-platform x86_64-manylinux_2_28)."
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (elf(I386), "x86"),
        (elf(S390, big_endian=True), "S390"),
        (elf(999), "machine number 999"),
        (b"\xcf\xfa\xed\xfe" + bytes(30), "macOS"),
    ],
)
def test_the_other_machine_is_named(bundle: Path, host: str, data: bytes, said: str) -> None:
    (bundle / "x.so").write_bytes(data)
    with pytest.raises(ArtifactRejected, match=f"built for {said}\\."):
        binaries.check(bundle, host)


def test_on_arm64_the_words_are_those_of_the_service(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "python").write_bytes(elf(ARM64))
    (bundle / "x.so").write_bytes(elf(X86_64))
    expected = r"^Your artifact contains binary files that are incompatible with Linux ARM64\."
    with pytest.raises(ArtifactRejected, match=expected):
        binaries.check(bundle, str(tmp_path / "python"))


def test_what_is_no_library_is_not_looked_at(bundle: Path, host: str) -> None:
    (bundle / "x.txt").write_bytes(elf(ARM64))
    (bundle / "script.so").write_bytes(b"GROUP ( libx.so.1 )")
    (bundle / "empty.so").write_bytes(b"")
    (bundle / "dangling.so").symlink_to("nowhere")
    (bundle / "directory.so").mkdir()
    binaries.check(bundle, host)
