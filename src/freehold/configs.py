"""What the parent hands to each of the server's processes: its settings as plain data, through a pipe.

Not for reading settings (`settings`) or acting on them (`compose`). Invariant: a configuration holds what its process
needs and nothing else; what is secret in it is in no command line and no environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from freehold.gateway import fast
from freehold.gateway.bounds import GatewayLimits

if TYPE_CHECKING:
    from freehold.settings import Settings

MIB = 1024 * 1024


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
    max_concurrent_requests: int
    max_requests_per_s: float
    max_starts_per_s: float
    resend_window_s: float
    otlp_endpoint: str | None
    otlp_headers: dict[str, str]
    log_session_bytes: int
    log_total_bytes: int
    log_retention_s: float


class JwtConfig(msgspec.Struct, frozen=True):
    private_networks: tuple[str, ...]
    allow_http: bool
    private_endpoints: dict[str, str]
    keys_refresh_s: float
    keys_max_age_s: float


class ControlConfig(msgspec.Struct, tag="control", frozen=True):
    common: Common
    feed_fd: int
    http_fd: int
    metrics_port: int | None
    metrics_interval_s: float
    otlp_endpoint: str | None
    otlp_headers: dict[str, str]
    s3_buckets: tuple[str, ...]
    local_versions: int
    max_cache_bytes: int
    interpreters: dict[str, str]
    jwt: JwtConfig


class GatewayConfig(msgspec.Struct, tag="gateway", frozen=True):
    common: Common
    listener_fd: int
    worker: int
    trusted_proxies: tuple[str, ...]
    access_log: bool
    trace_sample_ratio: float | None
    jwt_skew_s: float
    compiled: fast.Choice
    limits: GatewayLimits


Config = WardenConfig | ControlConfig | GatewayConfig

RELOADABLE = frozenset(
    {
        "log.level",
        "sessions.max_sessions",
        "sessions.max_concurrent_starts",
        "sessions.start_timeout_s",
        "sessions.max_concurrent_requests",
        "sessions.max_requests_per_s",
        "sessions.max_starts_per_s",
        "gateway.resend_window_s",
    }
)
"""Settings that processes take over while they run."""


def needs_new_workers(setting: str) -> bool:
    """Whether a setting takes effect by replacing the gateway workers, without a new start of the server. What is
    neither this nor RELOADABLE takes effect with the next start."""
    return setting.startswith(("gateway.", "bodies.")) or setting in (
        "server.workers",
        "log.access",
        "sessions.max_concurrent_requests",
        "sessions.max_requests_per_s",
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """The configuration of each process, given the descriptors it inherits."""

    settings: Settings
    common: Common

    def warden(self, listener_fd: int) -> WardenConfig:
        sandbox, sessions, logs = self.settings.sandbox, self.settings.sessions, self.settings.logs
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
            max_concurrent_requests=sessions.max_concurrent_requests,
            max_requests_per_s=sessions.max_requests_per_s,
            max_starts_per_s=sessions.max_starts_per_s,
            resend_window_s=self.settings.gateway.resend_window_s,
            otlp_endpoint=self.settings.observability.otlp_endpoint,
            otlp_headers=self.settings.observability.otlp_headers,
            log_session_bytes=logs.max_session_mib * MIB,
            log_total_bytes=logs.max_total_mib * MIB,
            log_retention_s=logs.retention_days * 86_400,
        )

    def control(self, feed_fd: int, http_fd: int) -> ControlConfig:
        artifacts, observed, jwt = self.settings.artifacts, self.settings.observability, self.settings.jwt
        return ControlConfig(
            common=self.common,
            feed_fd=feed_fd,
            http_fd=http_fd,
            metrics_port=observed.metrics_port,
            metrics_interval_s=observed.metrics_interval_s,
            otlp_endpoint=observed.otlp_endpoint,
            otlp_headers=observed.otlp_headers,
            s3_buckets=artifacts.s3_buckets,
            local_versions=artifacts.local_versions,
            max_cache_bytes=artifacts.max_cache_mib * MIB,
            interpreters=artifacts.interpreters,
            jwt=JwtConfig(
                private_networks=jwt.private_networks,
                allow_http=jwt.allow_http,
                private_endpoints=jwt.private_endpoints,
                keys_refresh_s=jwt.keys_refresh_s,
                keys_max_age_s=jwt.keys_max_age_s,
            ),
        )

    def gateway(self, number: int, listener_fd: int) -> GatewayConfig:
        observed = self.settings.observability
        return GatewayConfig(
            common=self.common,
            listener_fd=listener_fd,
            worker=number,
            trusted_proxies=self.settings.server.trusted_proxies,
            access_log=self.settings.log.access and self.settings.log.level in ("debug", "info"),
            trace_sample_ratio=None if observed.otlp_endpoint is None else observed.trace_sample_ratio,
            jwt_skew_s=self.settings.jwt.clock_skew_s,
            compiled=self.settings.gateway.compiled,
            limits=_limits(self.settings),
        )


def _limits(settings: Settings) -> GatewayLimits:
    gateway, bodies, sessions = settings.gateway, settings.bodies, settings.sessions
    return GatewayLimits(
        max_connections=gateway.max_connections,
        max_payload_bytes=gateway.max_payload_bytes,
        head_timeout_s=gateway.head_timeout_s,
        keep_alive_timeout_s=gateway.keep_alive_timeout_s,
        body_progress_timeout_s=gateway.body_timeout_s,
        spool_bytes_per_key=bodies.key_mib * MIB,
        spool_bytes_total=bodies.total_mib * MIB,
        spool_unknown_bytes_per_source=bodies.unverified_source_mib * MIB,
        spool_unknown_bytes_total=bodies.unverified_total_mib * MIB,
        memory_spool_bytes_total=bodies.memory_mib * MIB,
        body_min_bytes_per_s=bodies.min_bytes_per_s,
        body_grace_s=bodies.grace_s,
        slow_reader_timeout_s=gateway.slow_reader_timeout_s,
        first_byte_timeout_s=gateway.sync_timeout_s,
        stream_timeout_s=gateway.stream_timeout_s,
        max_chunk_bytes=gateway.max_chunk_bytes,
        runs_on=gateway.client_disconnect == "continue",
        sse_keepalive_s=gateway.sse_keepalive_s,
        web_socket_timeout_s=gateway.stream_timeout_s,
        drain_timeout_s=gateway.drain_timeout_s,
        retire_timeout_s=gateway.retire_timeout_s,
        knows_resends=gateway.resend_window_s > 0,
        asks_to_enter=bool(sessions.max_concurrent_requests or sessions.max_requests_per_s or gateway.resend_window_s),
    )


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
