"""What it takes to start one session's agent: the launch of a prepared, immutable version.

`control` makes it when a version's artifact is ready; `warden` and `backends` act on it. Plain data that crosses
process borders as JSON. Invariant: a LaunchSpec never changes once its version is READY.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from freehold.domain.runtimes import ServerProtocol


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A language runtime on this host. Paths are absolute host paths."""

    executable: str
    prefixes: tuple[str, ...] = ()
    """Directories outside /usr that the interpreter needs to run (its installation)."""
    site_dirs: tuple[str, ...] = ()
    """Directories of packages installed on the host, which an agent must not see."""


@dataclass(frozen=True, slots=True)
class Program:
    """How an agent is started: `interpreter args...`, run in the bundle's root; args are relative to it."""

    interpreter: Interpreter
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """One version of one agent runtime, ready to be started any number of times."""

    account: str
    region: str
    runtime_id: str
    runtime_name: str
    version: int
    protocol: ServerProtocol
    port: int
    """The port the agent listens on, in its own network namespace."""
    code_dir: str
    """The unpacked bundle on this host: read-only, shared by all sessions of the version."""
    program: Program
    idle_timeout_s: int
    max_lifetime_s: int
    environment: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    """The version's environmentVariables. Sensitive: never logged."""
