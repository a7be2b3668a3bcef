"""Every setting, in one frozen object.

Order, later wins: defaults, `freehold.toml`, environment variables `FREEHOLD_SECTION__KEY`, command-line flags. An
unknown key is an error wherever it stands. `docs/reference/settings.md` is generated from this module.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from freehold.domain.runtimes import MANAGED_RUNTIMES

ENVIRONMENT_PREFIX = "FREEHOLD_"
_OF_THE_BUILD = "FREEHOLD_COMPILE"
"""No setting: what was compiled when Freehold was installed is decided by it."""


class SettingsError(Exception):
    """The settings can't be used. The message names each key and what is wrong with it."""


def _default_data_dir() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "freehold"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(_Section):
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(2673, ge=0, le=65535, description="TCP port to listen on; 0 takes any free one.")
    workers: int = Field(1, ge=1, le=64, description="Gateway worker processes.")
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^/\s]+$",
        description="Where callers reach this server, if not at its host and port: scheme and authority, no path. "
        "Used in every URL that is handed out.",
    )
    behind_tls: bool = Field(
        False,
        description="Declares that a TLS terminator stands in front. Without it only a loopback address is bound.",
    )
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description="Networks of the proxies in front, such as `10.0.0.0/8`: what they say in X-Forwarded-For is "
        "believed, so that one client's large bodies don't crowd out another's. In the environment: separated by "
        "commas.",
    )

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"{network!r} is no network: {error}") from None
        return value


class BodySettings(_Section):
    """Request bodies that are held until their signature has been checked, by each gateway worker."""

    key_mib: int = Field(
        1024, ge=1, description="What is held at once for one access key or token owner, once the caller is known."
    )
    total_mib: int = Field(4096, ge=1, description="The same for all of them.")
    unverified_source_mib: int = Field(
        512, ge=1, description="What is held at once from one address, while it is not known who calls."
    )
    unverified_total_mib: int = Field(2048, ge=1, description="The same from all addresses.")
    memory_mib: int = Field(
        64, ge=0, description="How much of all that is in memory; the rest, and bodies over 1 MiB, are on disk."
    )
    min_bytes_per_s: int = Field(
        1024, ge=0, description="What a body has to come at on an average; a slower one is refused. 0: any pace."
    )
    grace_s: float = Field(10.0, gt=0, le=3600, description="For how long a body need not keep that pace.")


class GatewaySettings(_Section):
    compiled: Literal["auto", "never", "always"] = Field(
        "auto",
        description="The compiled form of the gateway, which takes less time for the same answers. auto: where it was "
        "built with Freehold. never: pure Python. always: or the server refuses to start.",
    )
    sync_timeout_s: float = Field(
        900.0, gt=0, le=86_400, description="Until an agent has answered a request, unless it streams. AWS: 15 minutes."
    )
    stream_timeout_s: float = Field(
        3600.0, gt=0, le=604_800, description="Until an agent has ended a stream or a WebSocket. AWS: 60 minutes."
    )
    max_payload_bytes: int = Field(
        100_000_000, ge=1, le=10_000_000_000, description="Body of one invocation. AWS: 100 MB."
    )
    max_chunk_bytes: int = Field(
        10_000_000, ge=1024, le=10_000_000_000, description="One chunk of an agent's chunked answer. AWS: 10 MB."
    )
    client_disconnect: Literal["cancel", "continue"] = Field(
        "cancel",
        description="When a client leaves before the end of its answer. cancel: the agent's connection is closed, by "
        "which its server notices. continue: the agent runs to its end, and what it says is dropped. AWS: continue.",
    )
    sse_keepalive_s: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="A comment between events of a text/event-stream after so long without a byte; 0: none. AWS: 0.",
    )
    resend_window_s: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="A request that an SDK sends again (same caller, session, amz-sdk-invocation-id and body) while "
        "the first is under way, or so long after its end, does not reach the agent a second time: it gets the "
        "first's answer, or 409. 0: all reach it, as on AWS.",
    )
    head_timeout_s: float = Field(
        10.0, gt=0, le=3600, description="From the first byte of a request's head to its last."
    )
    keep_alive_timeout_s: float = Field(
        75.0, gt=0, le=86_400, description="How long a client's connection may be idle between requests."
    )
    body_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="Without a byte of a request's body that is still to come."
    )
    slow_reader_timeout_s: float = Field(60.0, gt=0, le=86_400, description="For a client to take what waits for it.")
    max_connections: int = Field(10_000, ge=1, le=1_000_000, description="Clients' connections of one worker.")
    retire_timeout_s: float = Field(
        3600.0,
        gt=0,
        le=604_800,
        description="For a worker that was replaced, because settings changed, to end its streams. Then they are cut.",
    )
    drain_timeout_s: float = Field(
        10.0, gt=0, le=600, description="For requests under way when the server stops. Then they are cut."
    )


class AwsSettings(_Section):
    region: str = Field("us-east-1", pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$", description="The region this server is.")
    account_id: str = Field("000000000000", pattern=r"^[0-9]{12}$", description="The account that owns everything.")


class SandboxSettings(_Section):
    mode: Literal["auto", "process"] = Field(
        "auto",
        description="auto: every session in a sandbox of its own, or the server refuses to start. process: plain "
        "child processes without isolation, for agents you trust, on loopback only.",
    )
    uid_first: int = Field(
        300_000, ge=1000, le=4_000_000_000, description="First host uid for sessions, when the server runs as root."
    )
    memory_mib: int = Field(
        8192, ge=64, description="Memory of one session, where a memory cgroup can be written. AWS: 8 GB."
    )
    processes: int = Field(1024, ge=16, description="Processes and threads of one session.")
    open_files: int = Field(65_536, ge=256, description="Open files of one process in a session (the host may cap it).")


class SessionSettings(_Section):
    max_sessions: int = Field(
        256, ge=1, description="Sessions at once; beyond it callers get the service's quota error."
    )
    max_concurrent_starts: int = Field(8, ge=1, description="Sessions being started at once; further ones wait.")
    start_timeout_s: float = Field(120.0, gt=0, le=3600, description="Until /ping must be healthy. AWS: 120 s.")
    max_concurrent_requests: int = Field(
        0,
        ge=0,
        description="Requests under way in one session at once, by all workers; a further one is told to retry (409). "
        "0: any number, as on AWS.",
    )
    max_requests_per_s: float = Field(
        0.0,
        ge=0,
        description="Requests to one runtime, by all workers; further ones are throttled (429). As many as in a second "
        "may come at once. 0: any rate. AWS: 1,000 for all of an account's.",
    )
    max_starts_per_s: float = Field(
        0.0,
        ge=0,
        description="New sessions of one runtime; further ones are throttled (429). 0: any rate. AWS: 25 an account.",
    )


class ArtifactSettings(_Section):
    s3_buckets: tuple[str, ...] = Field(
        (),
        description="Buckets in S3 that agents' code may be read from, with the server's own AWS identity: names, or "
        "patterns with `*` and `?`. In the environment: separated by commas. A local bucket of the same name comes "
        "first.",
    )
    local_versions: int = Field(
        5, ge=1, le=1000, description="Uploads of one object of a local bucket that are kept as its versions."
    )
    max_cache_mib: int = Field(
        10_240,
        ge=1,
        description="Disk space for unpacked code. Beyond it what nothing uses is removed, then new versions fail.",
    )
    interpreters: dict[str, str] = Field(
        default_factory=dict[str, str],
        description='The executable for a managed runtime, such as `PYTHON_3_12 = "/opt/python3.12/bin/python3"`, '
        "instead of the one that is found. In the environment: `FREEHOLD_ARTIFACTS__INTERPRETERS__PYTHON_3_12`.",
    )

    @field_validator("s3_buckets", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("s3_buckets")
    @classmethod
    def _bucket_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if not re.fullmatch(r"[A-Za-z0-9._*?-]{1,255}", pattern):
                raise ValueError(f"{pattern!r} is no bucket's name or pattern")
        return value

    @field_validator("interpreters")
    @classmethod
    def _executables(cls, value: dict[str, str]) -> dict[str, str]:
        # Environment variables have lost their case by now.
        named = {name.upper(): executable for name, executable in value.items()}
        for name, executable in named.items():
            if name not in MANAGED_RUNTIMES:
                raise ValueError(f"{name} is not a managed runtime; those are {', '.join(MANAGED_RUNTIMES)}")
            if not executable.startswith("/"):
                raise ValueError(f"{name}: {executable!r} is not an absolute path")
        return named


class LogSettings(_Section):
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )
    format: Literal["text", "json"] = Field("text", description="Form of the server's log on stderr.")
    access: bool = Field(
        True,
        description="One line for each request, at level info: who asked for what, how it ended, in what time.",
    )


class AgentLogSettings(_Section):
    max_session_mib: int = Field(
        64, ge=1, le=1_048_576, description="Disk space for what one session prints; beyond it its oldest lines go."
    )
    max_total_mib: int = Field(
        2048, ge=8, le=67_108_864, description="Disk space for what all sessions print; beyond it the oldest lines go."
    )
    retention_days: float = Field(7.0, ge=0, le=3650, description="How long a session's log is kept after its end.")


class ObservabilitySettings(_Section):
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*[^/?#\s])?$",
        description="Base URL of an OTLP/HTTP receiver, such as `http://127.0.0.1:4318`: the server's spans and "
        "metrics go there, and what agents export. Without it nothing is exported.",
    )
    otlp_headers: dict[str, str] = Field(
        default_factory=dict[str, str],
        repr=False,
        description="Headers for the receiver, such as an API key. No agent sees them.",
    )
    trace_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="Share of traces that begin here which are sampled; callers decide for theirs."
    )
    metrics_interval_s: float = Field(
        60.0, ge=1, le=3600, description="How often the server's metrics are sent to `otlp_endpoint`."
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="A port on 127.0.0.1 on which `GET /metrics` answers without a signature, for Prometheus: to "
        "everybody on this host. `GET /_freehold/metrics` needs none of this, but a signature.",
    )

    @field_validator("otlp_headers")
    @classmethod
    def _headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, told in value.items():
            if not re.fullmatch(r"[A-Za-z0-9-]{1,128}", name) or not re.fullmatch(r"[\x20-\x7e]{1,4096}", told):
                raise ValueError(f"{name!r} is no header's name, or its value can't be sent")
        return value


class JwtSettings(_Section):
    clock_skew_s: float = Field(
        10.0, ge=0, le=300, description="How far an identity provider's clock may be from this server's."
    )
    keys_refresh_s: float = Field(
        300.0,
        ge=1,
        le=86_400,
        description="Age at which an identity provider's keys are fetched again while they are used. A key that is not "
        "among them is looked for at once, a few times.",
    )
    keys_max_age_s: float = Field(
        7200.0,
        ge=1,
        le=604_800,
        description="How long keys are used while their provider can't be reached, counted from when it last could. "
        "Then every token is refused.",
    )
    private_networks: tuple[str, ...] = Field(
        (),
        description="Networks outside of the public internet in which identity providers may be, such as "
        "`10.0.0.0/8`. In the environment: separated by commas.",
    )
    allow_http: bool = Field(
        False, description="Also take a provider's documents over plain http, from `private_networks` only."
    )
    private_endpoints: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="What stands here for a VPC Lattice resource configuration that an authorizer's privateEndpoint "
        'names by its id or ARN: `"rcfg-0123456789abcdef0" = "10.0.0.5:443"`, an address or name, and a port.',
    )

    @field_validator("private_networks", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("private_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"{network!r} is not a network: {error}") from None
        return value

    @field_validator("private_endpoints")
    @classmethod
    def _places(cls, value: dict[str, str]) -> dict[str, str]:
        for resource, place in value.items():
            host, _, port = place.rpartition(":")
            if not host.strip("[]") or not port.isdecimal() or not 0 < int(port) < 65_536:
                raise ValueError(f"{resource}: {place!r} is not an address or name, a colon, and a port")
        return value

    @model_validator(mode="after")
    def _ages(self) -> Self:
        if self.keys_max_age_s < self.keys_refresh_s:
            raise ValueError("jwt.keys_max_age_s must not be less than jwt.keys_refresh_s")
        return self


class Settings(_Section):
    """All settings of one server."""

    data_dir: Path = Field(
        default_factory=_default_data_dir,
        description="Where everything is kept. Default: freehold in XDG_DATA_HOME or ~/.local/share.",
    )
    server: ServerSettings = ServerSettings()  # pyright: ignore[reportCallIssue]
    bodies: BodySettings = BodySettings()  # pyright: ignore[reportCallIssue]
    gateway: GatewaySettings = GatewaySettings()  # pyright: ignore[reportCallIssue]
    aws: AwsSettings = AwsSettings()  # pyright: ignore[reportCallIssue]
    jwt: JwtSettings = JwtSettings()  # pyright: ignore[reportCallIssue]
    sandbox: SandboxSettings = SandboxSettings()  # pyright: ignore[reportCallIssue]
    sessions: SessionSettings = SessionSettings()  # pyright: ignore[reportCallIssue]
    artifacts: ArtifactSettings = ArtifactSettings()  # pyright: ignore[reportCallIssue]
    log: LogSettings = LogSettings()  # pyright: ignore[reportCallIssue]
    logs: AgentLogSettings = AgentLogSettings()  # pyright: ignore[reportCallIssue]
    observability: ObservabilitySettings = ObservabilitySettings()  # pyright: ignore[reportCallIssue]

    @model_validator(mode="after")
    def _exposure(self) -> Self:
        if not _is_loopback(self.server.host):
            if self.sandbox.mode == "process":
                raise ValueError(
                    f"server.host {self.server.host} is not a loopback address, and sandbox.mode 'process' isolates "
                    "nothing: use a loopback address or sandbox.mode 'auto'"
                )
            if not self.server.behind_tls:
                raise ValueError(
                    f"server.host {self.server.host} is not a loopback address: put a TLS terminator in front and "
                    "declare it with server.behind_tls = true"
                )
        return self


def load(
    *, file: Path | None = None, flags: dict[str, Any] | None = None, environment: dict[str, str] | None = None
) -> Settings:
    """The settings of this server. `flags` is nested as the sections are; None values in it say nothing.

    `file` must exist when it is given; otherwise `freehold.toml` in the working directory is read if there is one.
    Raises SettingsError.
    """
    merged: dict[str, Any] = {}
    if file is None and Path("freehold.toml").is_file():
        file = Path("freehold.toml")
    if file is not None:
        try:
            _merge(merged, tomllib.loads(file.read_text()))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{file}: {error}") from error
    _merge(merged, _from_environment(dict(os.environ) if environment is None else environment))
    _merge(merged, flags or {})
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def _from_environment(environment: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name == _OF_THE_BUILD:
            continue
        *sections, key = name[len(ENVIRONMENT_PREFIX) :].lower().split("__")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return found


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict):
            section = into.setdefault(key, {})
            if isinstance(section, dict):
                _merge(section, value)  # pyright: ignore[reportUnknownArgumentType]
            else:
                into[key] = value
        elif value is not None:
            into[key] = value


def _explain(error: ValidationError) -> str:
    lines: list[str] = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        what = "there is no such setting" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{where}: {what}" if where else what.removeprefix("Value error, "))
    return "\n".join(lines)


def _split(value: Any) -> Any:
    """A list as it stands in an environment variable."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
