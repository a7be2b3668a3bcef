"""The system calls an agent may not make: a seccomp filter in classic BPF, made without a compiler.

A second fence behind namespaces, no capabilities and no-new-privileges: it keeps an agent from parts of the kernel
that agents don't need and attacks do. Not for: what a file or a socket may be used for. Refusals are errors that
programs know how to handle, so a library that only tries falls back. Invariant: the program decides on numbers and
register values alone; nothing it reads can change after the decision.

Source: linux/seccomp.h, linux/bpf_common.h, and each architecture's unistd.h.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

# struct seccomp_data
_NUMBER = 0
_ARCHITECTURE = 4
_ARGUMENTS = 16

_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_NEW_TIME = 0x80
"""CLONE_NEWTIME; in clone's flags these bits are the exit signal."""
_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_TYPE_MASK = 1, 2, 0xF
_PROTOCOLS = (0, 6, 17, 262)
"""Of the Internet families: default, TCP, UDP, MPTCP (which Go listens with)."""
_READ_PERSONALITY = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture's audit number and system call numbers. `alien_from` begins another ABI's numbers."""

    audit: int
    forbidden: dict[str, int]
    absent: dict[str, int]
    """Calls said not to exist, so that libraries use the older way, which the filter can look into."""
    clone: int
    unshare: int
    socket: int
    socketpair: int
    ioctl: int
    personality: int
    alien_from: int | None = None


_ABSENT = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "clone3": 435}
_FORBIDDEN_EVERYWHERE = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "open_tree_attr": 467,
}

ARCHITECTURES = {
    "x86_64": Architecture(
        audit=0xC000003E,
        forbidden=_FORBIDDEN_EVERYWHERE
        | {
            "ptrace": 101,
            "syslog": 103,
            "uselib": 134,
            "sysfs": 139,
            "vhangup": 153,
            "modify_ldt": 154,
            "pivot_root": 155,
            "_sysctl": 156,
            "chroot": 161,
            "acct": 163,
            "settimeofday": 164,
            "mount": 165,
            "umount2": 166,
            "swapon": 167,
            "swapoff": 168,
            "reboot": 169,
            "sethostname": 170,
            "setdomainname": 171,
            "iopl": 172,
            "ioperm": 173,
            "create_module": 174,
            "init_module": 175,
            "delete_module": 176,
            "get_kernel_syms": 177,
            "query_module": 178,
            "quotactl": 179,
            "nfsservctl": 180,
            "lookup_dcookie": 212,
            "clock_settime": 227,
            "kexec_load": 246,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "migrate_pages": 256,
            "move_pages": 279,
            "perf_event_open": 298,
            "fanotify_init": 300,
            "open_by_handle_at": 304,
            "setns": 308,
            "process_vm_readv": 310,
            "process_vm_writev": 311,
            "kcmp": 312,
            "finit_module": 313,
            "kexec_file_load": 320,
            "bpf": 321,
            "userfaultfd": 323,
        },
        absent=_ABSENT,
        clone=56,
        unshare=272,
        socket=41,
        socketpair=53,
        ioctl=16,
        personality=135,
        # The x32 ABI: the same kernel by other numbers.
        alien_from=0x40000000,
    ),
    "aarch64": Architecture(
        audit=0xC00000B7,
        forbidden=_FORBIDDEN_EVERYWHERE
        | {
            "lookup_dcookie": 18,
            "umount2": 39,
            "mount": 40,
            "pivot_root": 41,
            "nfsservctl": 42,
            "chroot": 51,
            "vhangup": 58,
            "quotactl": 60,
            "acct": 89,
            "kexec_load": 104,
            "init_module": 105,
            "delete_module": 106,
            "clock_settime": 112,
            "syslog": 116,
            "ptrace": 117,
            "reboot": 142,
            "sethostname": 161,
            "setdomainname": 162,
            "settimeofday": 170,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "swapon": 224,
            "swapoff": 225,
            "migrate_pages": 238,
            "move_pages": 239,
            "perf_event_open": 241,
            "fanotify_init": 262,
            "open_by_handle_at": 265,
            "setns": 268,
            "process_vm_readv": 270,
            "process_vm_writev": 271,
            "kcmp": 272,
            "finit_module": 273,
            "bpf": 280,
            "userfaultfd": 282,
            "kexec_file_load": 294,
        },
        absent=_ABSENT,
        clone=220,
        unshare=97,
        socket=198,
        socketpair=199,
        ioctl=29,
        personality=92,
    ),
}


def program(machine: str) -> bytes:
    """The filter for `machine` (as os.uname names it), as an array of struct sock_filter. Raises KeyError."""
    arch = ARCHITECTURES[machine]
    code = _Code()
    code.load(_ARCHITECTURE)
    code.unless_equal(arch.audit, _KILL_PROCESS)
    code.load(_NUMBER)
    if arch.alien_from is not None:
        code.add(_AT_LEAST, arch.alien_from, 0, 1)
        code.refuse(errno.ENOSYS)
    for number in sorted(arch.forbidden.values()):
        code.refuse_number(number, errno.EPERM)
    for number in sorted(arch.absent.values()):
        code.refuse_number(number, errno.ENOSYS)
    for number, checks in (
        (arch.clone, _refuse_bits(0, _NEW_NAMESPACES)),
        (arch.unshare, _refuse_bits(0, _NEW_NAMESPACES | _NEW_TIME)),
        (arch.ioctl, _refuse_values(1, (_TIOCSTI, _TIOCLINUX))),
        (arch.personality, _permit_values(0, (0, _READ_PERSONALITY), errno.EPERM)),
        (arch.socketpair, _permit_values(0, (_AF_UNIX,), errno.EAFNOSUPPORT)),
        (arch.socket, _sockets()),
    ):
        code.when_number(number, checks)
    code.add(_RETURN, _ALLOW)
    return code.packed()


class _Code:
    """Instructions in order. Jumps only go forward, over what was just decided."""

    def __init__(self) -> None:
        self._instructions: list[tuple[int, int, int, int]] = []

    def add(self, operation: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        self._instructions.append((operation, if_true, if_false, value))

    def load(self, offset: int) -> None:
        self.add(_LOAD, offset)

    def argument(self, index: int) -> None:
        """Load the low half of an argument: the kernel takes all that is looked at here as 32 bits."""
        self.add(_LOAD, _ARGUMENTS + 8 * index)

    def refuse(self, number: int) -> None:
        self.add(_RETURN, _ERRNO | number)

    def unless_equal(self, value: int, action: int) -> None:
        self.add(_EQUAL, value, 1, 0)
        self.add(_RETURN, action)

    def refuse_number(self, value: int, error: int) -> None:
        self.add(_EQUAL, value, 0, 1)
        self.refuse(error)

    def when_number(self, value: int, checks: _Code) -> None:
        """Run `checks`, all of which decide, if the loaded number is `value`."""
        self.add(_EQUAL, value, 0, len(checks))
        self.extend(checks)

    def extend(self, code: _Code) -> None:
        self._instructions += code._instructions

    def permit_one_of(self, values: tuple[int, ...], error: int) -> None:
        """Go on behind this if the loaded value is among `values`, else refuse."""
        for index, value in enumerate(values):
            self.add(_EQUAL, value, len(values) - index, 0)
        self.refuse(error)

    def packed(self) -> bytes:
        return b"".join(struct.pack("=HBBI", *instruction) for instruction in self._instructions)

    def __len__(self) -> int:
        return len(self._instructions)


def _refuse_bits(argument: int, bits: int) -> _Code:
    code = _Code()
    code.argument(argument)
    code.add(_ANY_BIT, bits, 0, 1)
    code.refuse(errno.EPERM)
    code.add(_RETURN, _ALLOW)
    return code


def _refuse_values(argument: int, values: tuple[int, ...]) -> _Code:
    code = _Code()
    code.argument(argument)
    for value in values:
        code.refuse_number(value, errno.EPERM)
    code.add(_RETURN, _ALLOW)
    return code


def _permit_values(argument: int, values: tuple[int, ...], error: int) -> _Code:
    code = _Code()
    code.argument(argument)
    code.permit_one_of(values, error)
    code.add(_RETURN, _ALLOW)
    return code


def _sockets() -> _Code:
    """Unix; netlink for routes (getifaddrs); TCP and UDP. AF_VSOCK would reach the host past every namespace."""
    internet = _Code()
    internet.argument(1)
    internet.add(_AND, _SOCK_TYPE_MASK)
    internet.permit_one_of((_SOCK_STREAM, _SOCK_DGRAM), errno.EPERM)
    internet.argument(2)
    internet.permit_one_of(_PROTOCOLS, errno.EPROTONOSUPPORT)
    internet.add(_RETURN, _ALLOW)

    netlink = _Code()
    netlink.argument(2)
    netlink.permit_one_of((0,), errno.EPROTONOSUPPORT)
    netlink.add(_RETURN, _ALLOW)

    code = _Code()
    code.argument(0)
    code.add(_EQUAL, _AF_UNIX, 0, 1)
    code.add(_RETURN, _ALLOW)
    code.when_number(_AF_NETLINK, netlink)
    code.add(_EQUAL, _AF_INET, 1, 0)
    code.add(_EQUAL, _AF_INET6, 0, len(internet))
    code.extend(internet)
    code.refuse(errno.EAFNOSUPPORT)
    return code
