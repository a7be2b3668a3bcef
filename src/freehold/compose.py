"""The only file that names concrete classes: one function per process puts it together from its configuration.

Invariant: importing this module imports none of the processes' own parts, so a gateway worker stays small.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from freehold import child, running
from freehold.child import CannotServe, Life
from freehold.configs import MIB, Config, ControlConfig, GatewayConfig, JwtConfig, WardenConfig
from freehold.datadir.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from freehold.backends.base import SessionBackend
    from freehold.control.reach import Reach
    from freehold.control.server import HttpServer
    from freehold.observe.metric_export import MetricExport
    from freehold.observe.span_export import SpanExport
    from freehold.warden.otlp_relay import OtlpRelay
    from freehold.warden.output import AgentLogs


LAUNCH_TIMEOUT_S = 120.0
"""For control to say how a version is started: after a restore it makes the version's bundle anew."""
DATA_PLANE = "bedrock-agentcore"
OTLP_PORT = 4318
"""Of the OTLP receiver that agents find on their own loopback."""
DATA_PLANE_OPERATIONS = ("InvokeAgentRuntime", "StopRuntimeSession", "GetAgentCard")

C = TypeVar("C", WardenConfig, ControlConfig, GatewayConfig)


async def run_warden(config: WardenConfig, life: Life) -> None:
    """Own every session until stopped; then end them all."""
    from freehold import ipc
    from freehold.backends.base import BackendUnavailable
    from freehold.control import protocol as control
    from freehold.domain.launch import LaunchSpec
    from freehold.warden.journal import Journal
    from freehold.warden.log_store import LogBounds
    from freehold.warden.otlp_relay import OtlpRelay
    from freehold.warden.output import AgentLogs
    from freehold.warden.server import Warden, WardenLimits

    layout = Layout(Path(config.common.data_dir))
    logs = AgentLogs(
        layout.logs,
        LogBounds(config.log_session_bytes, config.log_total_bytes, timedelta(seconds=config.log_retention_s)),
    )
    relay = None if config.otlp_endpoint is None else OtlpRelay(config.otlp_endpoint, config.otlp_headers)
    backend, otlp_endpoint = _backend(config, layout, logs, relay)
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

    def bounds_of(config: WardenConfig) -> WardenLimits:
        return WardenLimits(
            config.max_sessions,
            config.max_concurrent_starts,
            config.start_timeout_s,
            config.max_concurrent_requests,
            config.max_requests_per_s,
            config.max_starts_per_s,
            config.resend_window_s,
        )

    async def load_launch(account: str, runtime_id: str, version: int) -> LaunchSpec:
        reply, fds = await link.call(control.GetLaunch(account, runtime_id, version), timeout_s=LAUNCH_TIMEOUT_S)
        ipc.close_all(fds)
        return reply.spec

    warden = Warden(
        backend=backend,
        journal=journal,
        load_launch=load_launch,
        bounds=bounds_of(config),
        public_url=config.common.url,
        logs=logs,
        otlp_endpoint=otlp_endpoint,
    )
    _reload_into(life, WardenConfig, lambda new: warden.set_bounds(bounds_of(new)))
    life.ready()
    try:
        await life.until_stopped(warden.serve(_listener(config.listener_fd)))
    finally:
        await warden.aclose()
        if relay is not None:
            await relay.aclose()
        await link.aclose()
        logs.aclose()


def _backend(
    config: WardenConfig, layout: Layout, logs: AgentLogs, relay: OtlpRelay | None
) -> tuple[SessionBackend, str | None]:
    """The backend, and where its agents find an OTLP receiver."""
    if config.sandbox_mode == "process":
        from freehold.backends.process import ProcessBackend

        # On the host's network: no relay is needed.
        process_backend = ProcessBackend(layout.sessions, on_line=logs.write, open_files=config.open_files)
        return process_backend, config.otlp_endpoint
    from freehold.backends.sandbox.backend import SandboxBackend, SandboxLimits
    from freehold.backends.supervision.inlets import Inlet

    inlets: list[Inlet] = []
    if relay is not None:
        inlets.append(Inlet("otlp", "127.0.0.1", OTLP_PORT))

    def on_inlet(generation: int, name: str, connection: socket.socket, returned: Callable[[], None]) -> None:
        assert relay is not None, f"nobody serves the inlet {name}"
        relay.accept(generation, connection, returned)

    sandbox_backend = SandboxBackend(
        layout.sessions,
        inlets=inlets,
        on_inlet=on_inlet,
        instance=layout.instance,
        limits=SandboxLimits(
            memory_bytes=config.memory_mib * MIB, processes=config.processes, open_files=config.open_files
        ),
        uid_first=config.uid_first,
        on_line=logs.write,
    )
    return sandbox_backend, f"http://127.0.0.1:{OTLP_PORT}" if inlets else None


async def run_control(config: ControlConfig, life: Life) -> None:
    """Answer the control plane and the operator API, feed the others, reconcile; until stopped."""
    from freehold import ipc
    from freehold.artifacts.cache import BundleCache
    from freehold.artifacts.interpreters import Interpreters
    from freehold.artifacts.local_bucket import LocalBuckets
    from freehold.artifacts.places import Places
    from freehold.artifacts.prepare import Preparer
    from freehold.artifacts.s3 import S3
    from freehold.aws import model
    from freehold.control import service
    from freehold.control.buckets import Buckets
    from freehold.control.gateway_port import GatewayPort
    from freehold.control.in_use import InUse
    from freehold.control.key_sets import Ages
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
    buckets = Buckets(layout.buckets, versions=config.local_versions)
    buckets.open()
    link = ipc.Link(str(layout.warden_socket), warden.REPLIES)
    linked_warden = LinkedWarden(link)
    cache = BundleCache(
        layout.artifacts,
        max_bytes=config.max_cache_bytes,
        in_use=InUse(store, linked_warden, region=common.region),
    )
    cache.open()
    local_buckets = LocalBuckets(layout.buckets)
    source = Places(local_buckets, S3(config.s3_buckets, region=common.region))
    spans, numbers = _exports(config)
    control = service.build(
        store=store,
        vault=vault,
        preparer=Preparer(source, cache, Interpreters(config.interpreters)),
        bundles=layout.artifacts,
        uploads=buckets,
        warden=linked_warden,
        region=common.region,
        wire=Wire.load(),
        data_plane=model.load(DATA_PLANE, DATA_PLANE_OPERATIONS).to_data(),
        logs_root=layout.logs,
        holds_bucket=local_buckets.has,
        source=source,
        reach=_reach(config.jwt),
        key_ages=Ages(config.jwt.keys_refresh_s, config.jwt.keys_max_age_s),
        on_spans=None if spans is None else spans.send,
    )
    control.keys.first_key(Scope(common.account, common.region))
    servers: list[GatewayPort | HttpServer] = [GatewayPort(control.app, _listener(config.http_fd))]
    if config.metrics_port is not None:
        from freehold.control.metrics import OpenMetricsPort
        from freehold.control.server import HttpServer

        servers.append(HttpServer(OpenMetricsPort(control.metrics), _loopback(config.metrics_port)))
    child.write_privately(
        layout.server_file, msgspec.json.encode(running.ServerFile(common.url, common.region, common.account))
    )
    _reload_into(life, ControlConfig)
    life.ready()
    try:
        await life.until_stopped(
            control.run(_listener(config.feed_fd)),
            *(http.run() for http in servers),
            cache.keep_clean(),
            *([] if numbers is None else [control.metrics.export(numbers, interval_s=config.metrics_interval_s)]),
        )
    finally:
        await link.aclose()
        store.close()
        for export in (spans, numbers):
            if export is not None:
                await asyncio.to_thread(export.close)


def _reach(config: JwtConfig) -> Reach:
    from ipaddress import ip_network

    from freehold.control.reach import Reach

    places: dict[str, tuple[str, int]] = {}
    for resource, place in config.private_endpoints.items():
        host, _, port = place.rpartition(":")
        places[resource] = (host.strip("[]"), int(port))
    return Reach(tuple(map(ip_network, config.private_networks)), config.allow_http, places)


def _exports(config: ControlConfig) -> tuple[SpanExport, MetricExport] | tuple[None, None]:
    if config.otlp_endpoint is None:
        return None, None
    from freehold.observe.metric_export import MetricExport
    from freehold.observe.span_export import SpanExport

    region, account = config.common.region, config.common.account
    endpoint, headers = config.otlp_endpoint, config.otlp_headers
    return (
        SpanExport(endpoint, headers=headers, region=region, account=account),
        MetricExport(endpoint, headers=headers, region=region, account=account, started_ns=time.time_ns()),
    )


def _loopback(port: int) -> socket.socket:
    try:
        listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        # asyncio does this only for sockets that name their protocol.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise CannotServe(
            f"can't listen on 127.0.0.1 port {port} for metrics: {error.strerror or error}; observability.metrics_port "
            "names another"
        ) from error


async def run_gateway(config: GatewayConfig, life: Life) -> None:
    """Serve the public socket until stopped."""
    from freehold.gateway import fast
    from freehold.gateway.worker import Watch, Worker
    from freehold.observe.access_log import AccessLog

    try:
        fast.choose(fast.load(config.compiled))
    except fast.NotBuilt as reason:
        raise CannotServe(
            f"gateway.compiled is 'always', and the gateway is {reason}: {fast.HOW_TO_BUILD}; or set it to 'auto'"
        ) from reason
    access_log = AccessLog(process=f"gateway-{config.worker}", json_lines=config.common.log_json)
    _reload_into(life, GatewayConfig)
    layout = Layout(Path(config.common.data_dir))
    worker = Worker(
        _listener(config.listener_fd),
        warden_path=str(layout.warden_socket),
        feed_path=str(layout.feed_socket),
        control_path=str(layout.control_socket),
        region=config.common.region,
        worker=config.worker,
        public_url=config.common.url,
        jwt_skew_s=config.jwt_skew_s,
        watch=Watch(access_log if config.access_log else None, config.trace_sample_ratio),
        limits=config.limits,
        trusted_proxies=config.trusted_proxies,
        spool_directory=str(layout.run),
    )
    await worker.run(life.stop, life.ready, retire=life.retire)


def _reload_into(life: Life, kind: type[C], apply: Callable[[C], None] | None = None) -> None:
    """Let a new configuration of this process take effect, as far as RELOADABLE goes."""
    from freehold.observe import logs

    def reload(data: bytes) -> None:
        config = msgspec.json.decode(data, type=kind)
        logs.set_level(config.common.log_level)
        if apply is not None:
            apply(config)

    life.on_reload(reload)


def _listener(fd: int) -> socket.socket:
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    return listener


def main() -> int:
    """Be one of the server's processes, with `child.Arguments` on the command line (`freehold.process`)."""
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
            import uvloop

            return child.run(arguments, lambda life: run_control(config, life), loop_factory=uvloop.new_event_loop)
        case GatewayConfig():
            import uvloop

            return child.run(arguments, lambda life: run_gateway(config, life), loop_factory=uvloop.new_event_loop)
