"""Finds native libraries in a bundle that were built for another machine than this host's.

Not for executables that an agent may never start, nor for Python's own ABI tags: AWS looks at neither. Invariant:
files are read, never loaded.

Source: the ELF header of elf(5); the service's text is in the developer guide's page on common issues of direct code
deployment.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Final

from freehold.artifacts.base import ArtifactRejected
from freehold.artifacts.source import printable

_LIBRARY = re.compile(r".+\.(so|node)|.+\.so\.[0-9.]+")
_HEADER_BYTES: Final = 20
_MACHINES: Final = {
    3: "x86",
    8: "MIPS",
    20: "PowerPC",
    21: "PowerPC64",
    22: "S390",
    40: "ARM",
    62: "x86-64",
    183: "ARM64",
    243: "RISC-V",
    258: "LoongArch",
}
"""e_machine, named as AWS names them where it does."""
_WHEEL_PLATFORMS: Final = {62: "x86_64-manylinux_2_28", 183: "aarch64-manylinux_2_28"}
_MACH_O: Final = (
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
)


def check(root: Path, executable: str) -> None:
    """Raise ArtifactRejected if a library below `root` can't be loaded by `executable`, naming the first.

    Blocking: for worker threads. A library in another format than ELF and Mach-O is no concern of ours.
    """
    host = _machine(Path(executable))
    assert isinstance(host, int), f"{executable} is not an ELF file"
    for directory, subdirectories, files in os.walk(root):
        subdirectories.sort()
        for name in sorted(files):
            path = Path(directory, name)
            if not _LIBRARY.fullmatch(name) or path.is_symlink():
                continue
            found = _machine(path)
            if found is not None and found != host:
                raise _incompatible(path.relative_to(root), found, host)


def _machine(path: Path) -> int | str | None:
    """e_machine of an ELF file, the name of another system, or None for anything else."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if header[:4] in _MACH_O:
        return "macOS"
    if len(header) < _HEADER_BYTES or header[:4] != b"\x7fELF":
        return None
    order = ">" if header[5] == 2 else "<"
    (machine,) = struct.unpack_from(f"{order}H", header, 18)
    return machine


def _incompatible(path: Path, found: int | str, host: int) -> ArtifactRejected:
    host_name = _name(host)
    advice = "Package it again with dependencies for this machine"
    if host in _WHEEL_PLATFORMS:
        advice += f" (with uv: --python-platform {_WHEEL_PLATFORMS[host]})"
    return ArtifactRejected(
        f"Your artifact contains binary files that are incompatible with Linux {host_name}. "
        f"The first is {printable(path.as_posix())}, built for {_name(found)}. {advice}."
    )


def _name(machine: int | str) -> str:
    return machine if isinstance(machine, str) else _MACHINES.get(machine, f"machine number {machine}")
