"""`./dev soak --streams`: 1,000 streams of events at once, with agents that die and clients that leave at random.

With `--reload-every` workers are replaced all the time instead, under requests too, and nothing may fail or be cut.
Fails when a stream stalls, or says what is not its own, or ends otherwise than it must; and when the server's own
processes hold more memory or descriptors at the end than once all streams ran, or a session is held by nobody.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path

from tools import calls, ephemeral, process_tree, streams

TICKER = ephemeral.ROOT / "tools" / "agents" / "ticker"
SESSIONS = 12
WARM_UP_S = 40.0
MORE_MEMORY_MIB = 24.0
MORE_DESCRIPTORS = 64
SETTINGS = "[sandbox]\nopen_files = 65536\n[gateway]\nkeep_alive_timeout_s = 5.0\n"


def main(minutes: float, at_once: int | None, *, reload_every_s: float) -> int:
    ephemeral.end_on_signals()
    try:
        with tempfile.TemporaryDirectory(prefix="freehold-soak-") as directory:
            config = Path(directory) / "freehold.toml"
            config.write_text(SETTINGS)
            with ephemeral.server("--config", str(config), "--workers", "2") as server:
                try:
                    asyncio.run(_soak(server, config, minutes * 60, at_once or 1000, reload_every_s))
                except BaseException:
                    _show_breaks(server.log_file)
                    raise
    except ephemeral.Interrupted as interrupted:
        return interrupted.status
    except (streams.StreamFailed, calls.CallFailed, ephemeral.ServerFailed, OSError, ExceptionGroup) as problem:
        for one in _all(problem):
            print(f"soak: {type(one).__name__}: {one}", file=sys.stderr)
        return 1
    return 0


def _show_breaks(log_file: Path) -> None:
    """What the server said of answers that it broke off itself, and of everything but answers."""
    for line in log_file.read_text(errors="replace").splitlines():
        if " request  " not in line or ("broken_off=True" in line and "error=ClientGone" not in line):
            print(line, file=sys.stderr)


def _all(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [one for part in error.exceptions for one in _all(part)]


async def _soak(
    server: ephemeral.EphemeralServer, config: Path, duration_s: float, at_once: int, reload_every_s: float
) -> None:
    caller = calls.caller(server)
    arn = await asyncio.to_thread(calls.deploy, server, TICKER, "ticker")
    load = streams.Load(caller, arn, [calls.new_session() for _ in range(SESSIONS)])
    load.until = time.monotonic() + duration_s
    load.may_be_cut = not reload_every_s
    load.leave = 0.0 if reload_every_s else 0.2
    async with asyncio.TaskGroup() as group:
        group.create_task(load.streams(at_once))
        if reload_every_s:
            group.create_task(load.requests(16))
            group.create_task(_reloading(server, config, load, reload_every_s))
        else:
            group.create_task(load.dying(every_s=7.0))
        await asyncio.sleep(min(WARM_UP_S, duration_s / 3))
        before = own_footprint(server.process.pid)
        while time.monotonic() < load.until:
            print(f"soak: {load.open_now} streams, {dict(load.tally)}, {own_footprint(server.process.pid)}", flush=True)
            await asyncio.sleep(min(15.0, max(0.1, load.until - time.monotonic())))
        after = own_footprint(server.process.pid)
    print(f"soak: longest gap {load.longest_gap_s:.1f} s; {dict(load.tally)}; {before} then {after}", flush=True)
    if not reload_every_s:
        _compare(before, after)
    await _settled(server, caller)


def _compare(before: process_tree.Footprint, after: process_tree.Footprint) -> None:
    if after.memory_mib > before.memory_mib + MORE_MEMORY_MIB:
        raise streams.StreamFailed(f"memory grew: {before} then {after}")
    if after.descriptors > before.descriptors + MORE_DESCRIPTORS:
        raise streams.StreamFailed(f"descriptors grew: {before} then {after}")


async def _reloading(server: ephemeral.EphemeralServer, config: Path, load: streams.Load, every_s: float) -> None:
    number = 0
    while time.monotonic() < load.until - every_s:
        await asyncio.sleep(every_s)
        number += 1
        await asyncio.to_thread(config.write_text, f"{SETTINGS}max_connections = {20_000 + number}\n")
        server.process.send_signal(signal.SIGHUP)
        load.tally["reloads"] += 1


async def _settled(server: ephemeral.EphemeralServer, caller: calls.Caller) -> None:
    """Every stream has ended: nobody may hold a connection, and so a descriptor, any more."""
    end = time.monotonic() + 60
    while True:
        now = own_footprint(server.process.pid)
        held = [s for s in await asyncio.to_thread(caller.sessions) if s.get("inFlight")]
        if not held and now.descriptors < 300:
            print(f"soak: afterwards {now}", flush=True)
            return
        if time.monotonic() > end:
            raise streams.StreamFailed(f"left over: {held}, {now}")
        await asyncio.sleep(0.5)


def own_footprint(root: int) -> process_tree.Footprint:
    """Of the server's own processes: its parent, the warden, control and the gateway workers; not of its sessions."""
    children = process_tree.children_by_parent().get(root, [])
    own = [pid for pid in children if b"freehold.process" in process_tree.command_line(pid)]
    return process_tree.footprint([root, *own])


if __name__ == "__main__":
    sys.exit(main(3.0, None, reload_every_s=0.0))
