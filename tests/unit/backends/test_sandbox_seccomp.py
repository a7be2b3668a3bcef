"""The filter, run by an interpreter of classic BPF written from the kernel's documentation, for each architecture."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from freehold.backends.sandbox import seccomp

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def run(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """What the filter decides about one system call."""
    registers = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=iIQ6Q", number, AUDIT[machine] if audit is None else audit, 0, *registers)
    program = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, value = program[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x45:
                at += if_true if accumulator & value else if_false
            case 0x06:
                return value
            case _:
                raise AssertionError(f"not expected: {operation:#x}")


machines = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


@machines
def test_every_number_is_the_kernels(machine: str):
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)\b", header.read_text())}
    arch = seccomp.ARCHITECTURES[machine]
    ours = (
        arch.forbidden
        | arch.absent
        | {name: getattr(arch, name) for name in ("clone", "unshare", "socket", "socketpair", "ioctl", "personality")}
    )
    known = {name: number for name, number in ours.items() if name in numbers}
    assert known == {name: numbers[name] for name in known}
    # A header may be older than the newest calls.
    assert set(ours) - set(known) <= {"open_tree_attr", "umount2"}


@machines
def test_another_architectures_calls_kill(machine: str):
    assert run(machine, 0, audit=0x40000003) == KILL


@machines
def test_what_is_forbidden_is_refused_and_the_rest_allowed(machine: str):
    arch = seccomp.ARCHITECTURES[machine]
    looked_into = {arch.clone, arch.unshare, arch.socket, arch.socketpair, arch.ioctl, arch.personality}
    for number in set(range(512)) - looked_into:
        if number in arch.forbidden.values():
            expected = ERRNO | errno.EPERM
        elif number in arch.absent.values():
            expected = ERRNO | errno.ENOSYS
        else:
            expected = ALLOW
        assert run(machine, number) == expected, number


@machines
@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("clone", (0x01200011,), ALLOW),
        ("clone", (0x003D0F00,), ALLOW),
        ("clone", (0x10000011,), errno.EPERM),
        ("clone", (0x02000011,), errno.EPERM),
        ("unshare", (0x400,), ALLOW),
        ("unshare", (0x20000,), errno.EPERM),
        ("unshare", (0x80,), errno.EPERM),
        ("ioctl", (1, 0x5401), ALLOW),
        ("ioctl", (1, 0x5412), errno.EPERM),
        ("ioctl", (1, 0x1_0000_5412), errno.EPERM),
        ("ioctl", (1, 0x541C), errno.EPERM),
        ("personality", (0xFFFFFFFF,), ALLOW),
        ("personality", (0x40000,), errno.EPERM),
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (30, 1), errno.EAFNOSUPPORT),
        ("socket", (1, 5), ALLOW),
        ("socket", (2, 1 | 0o2004000, 0), ALLOW),
        ("socket", (2, 1, 262), ALLOW),
        ("socket", (10, 2, 17), ALLOW),
        ("socket", (16, 3, 0), ALLOW),
        ("socket", (16, 3, 9), errno.EPROTONOSUPPORT),
        ("socket", (2, 3, 0), errno.EPERM),
        ("socket", (10, 1, 132), errno.EPROTONOSUPPORT),
        ("socket", (40, 1, 0), errno.EAFNOSUPPORT),
        ("socket", (17, 3, 0), errno.EAFNOSUPPORT),
        ("socket", (0x1_0000_0028, 1, 0), errno.EAFNOSUPPORT),
    ],
)
def test_what_is_looked_into_is_decided_by_its_arguments(
    machine: str, call: str, arguments: tuple[int, ...], expected: int
):
    number = getattr(seccomp.ARCHITECTURES[machine], call)
    assert run(machine, number, *arguments) == (ALLOW if expected == ALLOW else ERRNO | expected)


def test_the_other_abi_of_x86_64_does_not_exist():
    assert run("x86_64", 0x40000000 + 165) == ERRNO | errno.ENOSYS
