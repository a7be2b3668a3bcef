"""The only file that names concrete classes: one function per process puts it together from the settings.

Also the layout of the data directory, and how a command finds a running server's address and key in it. Invariant:
importing this module imports none of the processes' own parts, so a gateway worker stays small.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from freehold import child
from freehold.child import CannotServe, Life

if TYPE_CHECKING:
    from freehold.backends.base import SessionBackend
    from freehold.settings import Settings
    from freehold.warden.output import AgentLogs


DATA_PLANE = "bedrock-agentcore"
DATA_PLANE_OPERATIONS = ("InvokeAgentRuntime", "StopRuntimeSession")


class NoServer(Exception):
    """No server runs with this data directory. The message says how to start one."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in a data directory. `keys` stays out of a backup that is not to hold the key."""

    data_dir: Path

    @property
    def lock(self) -> Path:
        return self.data_dir / "lock"

    @property
    def database(self) -> Path:
        return self.data_dir / "state" / "freehold.db"

    @property
    def master_key(self) -> Path:
        return self.data_dir / "keys" / "master.key"

    @property
    def buckets(self) -> Path:
        return self.data_dir / "buckets"

    @property
    def artifacts(self) -> Path:
        return self.data_dir / "artifacts"

    @property
    def sessions(self) -> Path:
        return self.data_dir / "sessions"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    @property
    def run(self) -> Path:
        return self.data_dir / "run"

    @property
    def journal(self) -> Path:
        return self.run / "sessions"

    @property
    def warden_socket(self) -> Path:
        return self.run / "warden.sock"

    @property
    def feed_socket(self) -> Path:
        return self.run / "feed.sock"

    @property
    def control_socket(self) -> Path:
        return self.run / "control.sock"

    @property
    def server_file(self) -> Path:
        return self.run / "server.json"

    @property
    def instance(self) -> str:
        """A short name for what this server makes outside of its data directory (cgroups)."""
        return hashlib.sha256(bytes(self.data_dir)).hexdigest()[:12]


# -- what the parent hands to each process ------------------------------------------------------------------------


class Common(msgspec.Struct, frozen=True):
    data_dir: str
    url: str
    region: str
    account: str
    log_level: str
    log_json: bool


class WardenConfig(msgspec.Struct, tag="warden", frozen=True):
    common: Common
    listener_fd: int
    sandbox_mode: str
    uid_first: int
    memory_mib: int
    processes: int
    open_files: int
    max_sessions: int
    max_concurrent_starts: int
    start_timeout_s: float


class ControlConfig(msgspec.Struct, tag="control", frozen=True):
    common: Common
    feed_fd: int
    http_fd: int


class GatewayConfig(msgspec.Struct, tag="gateway", frozen=True):
    common: Common
    listener_fd: int
    worker: int


Config = WardenConfig | ControlConfig | GatewayConfig


@dataclass(frozen=True, slots=True)
class Plan:
    """The configuration of each process, given the descriptors it inherits."""

    settings: Settings
    common: Common

    def warden(self, listener_fd: int) -> WardenConfig:
        sandbox, sessions = self.settings.sandbox, self.settings.sessions
        return WardenConfig(
            common=self.common,
            listener_fd=listener_fd,
            sandbox_mode=sandbox.mode,
            uid_first=sandbox.uid_first,
            memory_mib=sandbox.memory_mib,
            processes=sandbox.processes,
            open_files=sandbox.open_files,
            max_sessions=sessions.max_sessions,
            max_concurrent_starts=sessions.max_concurrent_starts,
            start_timeout_s=sessions.start_timeout_s,
        )

    def control(self, feed_fd: int, http_fd: int) -> ControlConfig:
        return ControlConfig(self.common, feed_fd, http_fd)

    def gateway(self, number: int, listener_fd: int) -> GatewayConfig:
        return GatewayConfig(self.common, listener_fd, number)


def plan(settings: Settings, *, data_dir: Path, url: str) -> Plan:
    """What to run for `settings`, in the resolved `data_dir`, reachable at `url`."""
    common = Common(
        data_dir=str(data_dir),
        url=url,
        region=settings.aws.region,
        account=settings.aws.account_id,
        log_level=settings.log.level,
        log_json=settings.log.format == "json",
    )
    return Plan(settings, common)


def remove_run_files(data_dir: Path) -> None:
    """Remove what says that a server runs here; the journal stays, since it counts boots."""
    layout = Layout(data_dir)
    for path in (layout.server_file, layout.warden_socket, layout.feed_socket, layout.control_socket):
        path.unlink(missing_ok=True)


# -- the processes ------------------------------------------------------------------------------------------------


async def run_warden(config: WardenConfig, life: Life) -> None:
    """Own every session until stopped; then end them all."""
    from freehold import ipc
    from freehold.backends.base import BackendUnavailable
    from freehold.control import protocol as control
    from freehold.domain.launch import LaunchSpec
    from freehold.warden.journal import Journal
    from freehold.warden.output import AgentLogs
    from freehold.warden.server import Warden, WardenLimits

    layout = Layout(Path(config.common.data_dir))
    logs = AgentLogs(layout.logs)
    backend = _backend(config, layout, logs)
    try:
        await backend.open()
    except BackendUnavailable as error:
        raise CannotServe(str(error)) from error
    journal = Journal(layout.journal)
    leftover = journal.leftover()
    await backend.sweep(leftover)
    for ref in leftover:
        journal.forget(ref.generation)
    link = ipc.Link(str(layout.feed_socket), control.REPLIES)

    async def load_launch(account: str, runtime_id: str, version: int) -> LaunchSpec:
        reply, fds = await link.call(control.GetLaunch(account, runtime_id, version))
        ipc.close_all(fds)
        return reply.spec

    warden = Warden(
        backend=backend,
        journal=journal,
        load_launch=load_launch,
        bounds=WardenLimits(config.max_sessions, config.max_concurrent_starts, config.start_timeout_s),
        public_url=config.common.url,
        logs=logs,
    )
    life.ready()
    try:
        await life.until_stopped(warden.serve(_listener(config.listener_fd)))
    finally:
        await warden.aclose()
        await link.aclose()


def _backend(config: WardenConfig, layout: Layout, logs: AgentLogs) -> SessionBackend:
    if config.sandbox_mode == "process":
        from freehold.backends.process import ProcessBackend

        return ProcessBackend(layout.sessions, on_line=logs.write, open_files=config.open_files)
    from freehold.backends.sandbox.backend import SandboxBackend, SandboxLimits

    return SandboxBackend(
        layout.sessions,
        instance=layout.instance,
        limits=SandboxLimits(
            memory_bytes=config.memory_mib * 1024 * 1024, processes=config.processes, open_files=config.open_files
        ),
        uid_first=config.uid_first,
        on_line=logs.write,
    )


async def run_control(config: ControlConfig, life: Life) -> None:
    """Answer the control plane and the operator API, feed the others, reconcile; until stopped."""
    from freehold import ipc
    from freehold.artifacts.interpreters import Interpreters
    from freehold.artifacts.prepare import Preparer
    from freehold.aws import model
    from freehold.control import service
    from freehold.control.buckets import Buckets
    from freehold.control.server import HttpServer
    from freehold.control.warden_link import LinkedWarden
    from freehold.control.wire import Wire
    from freehold.store.base import Scope, StoreRefused
    from freehold.store.sqlite import open_store
    from freehold.store.vault import open_vault
    from freehold.warden import protocol as warden

    common = config.common
    layout = Layout(Path(common.data_dir))
    try:
        layout.database.parent.mkdir(mode=0o700, exist_ok=True)
        store = open_store(layout.database)
        vault = open_vault(layout.master_key, layout.database, store)
    except StoreRefused as error:
        raise CannotServe(str(error)) from error
    buckets = Buckets(layout.buckets)
    buckets.open()
    preparer = Preparer(layout.buckets, layout.artifacts, Interpreters())
    preparer.open()
    link = ipc.Link(str(layout.warden_socket), warden.REPLIES)
    control = service.build(
        store=store,
        vault=vault,
        preparer=preparer,
        uploads=buckets,
        warden=LinkedWarden(link),
        region=common.region,
        wire=Wire.load(),
        data_plane=model.load(DATA_PLANE, DATA_PLANE_OPERATIONS).to_data(),
    )
    control.keys.first_key(Scope(common.account, common.region))
    http = HttpServer(control.app, _listener(config.http_fd))
    child.write_privately(
        layout.server_file, msgspec.json.encode(ServerFile(common.url, common.region, common.account))
    )
    life.ready()
    try:
        await life.until_stopped(control.run(_listener(config.feed_fd)), http.run())
    finally:
        await link.aclose()
        store.close()


async def run_gateway(config: GatewayConfig, life: Life) -> None:
    """Serve the public socket until stopped."""
    from freehold.gateway.worker import Worker

    layout = Layout(Path(config.common.data_dir))
    worker = Worker(
        _listener(config.listener_fd),
        warden_path=str(layout.warden_socket),
        feed_path=str(layout.feed_socket),
        control_path=str(layout.control_socket),
        region=config.common.region,
        worker=config.worker,
    )
    await worker.run(life.stop, life.ready)


def _listener(fd: int) -> socket.socket:
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    return listener


def main() -> int:
    """Be one of the server's processes: `python -m freehold.compose` with `child.Arguments`."""
    arguments = child.Arguments.parse(sys.argv[1:])
    config: Config = msgspec.json.decode(arguments.read_config(), type=WardenConfig | ControlConfig | GatewayConfig)
    is_warden = isinstance(config, WardenConfig)
    # The warden gets to end its sessions in order; the others own nothing.
    child.die_with_parent(arguments.parent_pid, signal.SIGTERM if is_warden else signal.SIGKILL)
    os.umask(0o077)
    from freehold.observe import logs

    logs.configure(process=arguments.name, level=config.common.log_level, json_lines=config.common.log_json)

    match config:
        case WardenConfig():
            return child.run(arguments, lambda life: run_warden(config, life))
        case ControlConfig():
            return child.run(arguments, lambda life: run_control(config, life))
        case GatewayConfig():
            import uvloop

            return child.run(arguments, lambda life: run_gateway(config, life), loop_factory=uvloop.new_event_loop)


# -- finding a running server -------------------------------------------------------------------------------------


class ServerFile(msgspec.Struct, frozen=True):
    url: str
    region: str
    account: str


@dataclass(frozen=True, slots=True)
class Connection:
    """How a client reaches a server."""

    url: str
    region: str
    access_key_id: str
    secret: str = field(repr=False)


def connection(data_dir: Path) -> Connection:
    """How to reach the server that runs with `data_dir`, as its owner. Raises NoServer."""
    from freehold.control.keys import StoredKeys
    from freehold.control.service import utc_now
    from freehold.store.base import Scope, StoreRefused
    from freehold.store.sqlite import open_store
    from freehold.store.vault import open_vault

    layout = Layout(data_dir)
    if not _is_locked(layout.lock):
        raise NoServer(
            f"no server runs with the data directory {data_dir}: start one with freehold up --data-dir {data_dir}"
        )
    try:
        server = msgspec.json.decode(layout.server_file.read_bytes(), type=ServerFile)
        store = open_store(layout.database)
    except (OSError, msgspec.DecodeError, StoreRefused) as error:
        raise NoServer(f"the server with the data directory {data_dir} can't be reached: {error}") from error
    try:
        vault = open_vault(layout.master_key, layout.database, store)
        key = StoredKeys(store, vault, now=utc_now).first_key(Scope(server.account, server.region))
    except StoreRefused as error:
        raise NoServer(str(error)) from error
    finally:
        store.close()
    return Connection(server.url, server.region, key.access_key_id, key.secret)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


if __name__ == "__main__":
    sys.exit(main())
