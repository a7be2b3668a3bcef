"""`./dev soak --bodies`: 200 clients that announce 100 MB and have no right to, against a real server.

Half of them send as fast as they can under a wrong signature, half a byte a second under a right one. Meanwhile callers
with small and with 5 MB bodies must be served, and the gateway's memory and disk stay within their bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import bare
from tools import calls, ephemeral
from tools.flood import Flood, Told

EACH = 100
ANNOUNCED = 100_000_000
ROUND_S = 60.0
"""Signatures are good for five minutes: every round has new ones."""
MORE_MEMORY_MIB = 256
MAX_DISK_BYTES = 2 << 30
"""As the settings have it: bodies.unverified_total_mib."""
LEAST_LARGE = 0.9


class Failed(Exception):
    """A bound did not hold. The message says which."""


@dataclass(slots=True)
class Seen:
    small: Counter[str] = field(default_factory=Counter[str])
    large: Counter[str] = field(default_factory=Counter[str])
    slowest_small_s: float = 0.0
    most_disk: int = 0
    most_memory_mib: float = 0.0


def main(minutes: float) -> int:
    ephemeral.end_on_signals()
    try:
        with ephemeral.server() as server:
            asyncio.run(_soak(server, minutes * 60))
    except ephemeral.Interrupted as interrupted:
        return interrupted.status
    except (Failed, calls.CallFailed, ephemeral.ServerFailed, OSError) as problem:
        print(f"soak: {problem}", file=sys.stderr)
        return 1
    return 0


async def _soak(server: ephemeral.EphemeralServer, duration_s: float) -> None:
    caller = calls.caller(server)
    path = calls.invocation(calls.deploy(server, bare.ECHO, "echo"))
    gateways = _gateways(server.process.pid)
    session = {"Content-Type": "application/json", calls.SESSION_HEADER: calls.new_session()}
    await asyncio.to_thread(_call, caller, path, b"{}", session)
    before, seen = _memory_mib(gateways), Seen()
    end = time.monotonic() + duration_s
    while time.monotonic() < end:
        address = urlsplit(caller.url)
        flood = Flood(address.hostname or "", address.port or 80)
        wrong = flood.add(EACH, _head(dataclasses.replace(caller, secret="wrong"), path), size=ANNOUNCED)
        slow = flood.add(EACH, _head(caller, path), size=ANNOUNCED, piece=b"\0", pause_s=1.0)
        round_end = min(end, time.monotonic() + ROUND_S)
        try:
            while time.monotonic() < round_end:
                began = time.monotonic()
                seen.small[await asyncio.to_thread(_call, caller, path, b"{}", session)] += 1
                seen.slowest_small_s = max(seen.slowest_small_s, time.monotonic() - began)
                seen.large[await asyncio.to_thread(_call, caller, path, b"x" * 5_000_000, session)] += 1
                seen.most_disk = max(seen.most_disk, _disk_bytes(gateways))
                seen.most_memory_mib = max(seen.most_memory_mib, _memory_mib(gateways))
        finally:
            await flood.aclose()
        print(f"soak: {seen}; strangers were told {_told(wrong)}, slow ones {_told(slow)}", flush=True)
    _judge(seen, before)
    print(f"soak: bounds held; the gateway had {before:.0f} MiB before, at most {seen.most_memory_mib:.0f} MiB")


def _judge(seen: Seen, before_mib: float) -> None:
    if set(seen.small) != {"200"}:
        raise Failed(f"small requests were not all served: {seen.small}")
    if seen.large["200"] < LEAST_LARGE * seen.large.total():
        raise Failed(f"too few requests of 5 MB were served: {seen.large}")
    if seen.most_memory_mib > before_mib + MORE_MEMORY_MIB:
        raise Failed(f"the gateway's memory grew from {before_mib:.0f} to {seen.most_memory_mib:.0f} MiB")
    if seen.most_disk > MAX_DISK_BYTES:
        raise Failed(f"{seen.most_disk} bytes of bodies were on disk")


def _head(caller: calls.Caller, path: str) -> bytes:
    headers = caller.signed("POST", path, b"", {"Content-Type": "application/json"}, claimed=False)
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {ANNOUNCED}", "", ""]).encode()


def _call(caller: calls.Caller, path: str, body: bytes, session: dict[str, str]) -> str:
    """Its status: a caller who has not signed the body's hash in a header, as boto3's."""
    with contextlib.closing(caller.connection()) as connection:
        headers = caller.signed("POST", path, body, session, claimed=False)
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            return str(answer.status)
        except OSError as error:
            return type(error).__name__


def _told(told: Told) -> str:
    return f"{dict(told.answers)}, {told.broken} broken, {told.sent_bytes // 1_000_000} MB sent"


def _gateways(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"gateway-" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _memory_mib(pids: list[int]) -> float:
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def _disk_bytes(pids: list[int]) -> int:
    """Of files without a name."""
    size = 0
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(fd.readlink()).endswith(" (deleted)"):
                    size += fd.stat().st_size
    return size
