"""What Freehold remembers: small atomic verbs, each one transaction, written for their callers.

For: control, which alone holds a store. Not for: deciding what a configuration may say (`control.configuration`) or
for secrets in the clear (`store.vault` seals them first). Invariant: every verb either happens wholly, durably, or
not at all; a status changes only along `domain.runtimes.TRANSITIONS`.

Verbs are synchronous and thread-safe: call them from worker threads. Instants are timezone-aware and come from the
caller. Expected failures are of `domain.errors`; a store that can't be reached in time raises Unavailable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from freehold.domain.launch import LaunchSpec
from freehold.domain.runtimes import RuntimeStatus

CLIENT_TOKEN_LIFETIME: Final = timedelta(hours=24)
"""How long a client token is remembered (ours: the service does not say; other AWS services keep them 24 h)."""

NAME_TAKEN: Final = "An agent with the specified name already exists"
"""The service's words (spec section 3.3)."""

Json = dict[str, Any]


class StoreRefused(Exception):
    """The database can't be used by this program; the message says why and what to do. Start-up ends with it."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose, and where: part of the key of every row."""

    account: str
    region: str


@dataclass(frozen=True, slots=True)
class RuntimeKey:
    """One agent runtime of this installation."""

    scope: Scope
    runtime_id: str


@dataclass(frozen=True, slots=True)
class Once:
    """A caller's wish that a call takes effect once: the same token with the same parameters gets the first receipt."""

    operation: str
    token: str
    parameters_digest: str
    """SHA-256 of the canonical parameters without the token, in hex."""


@dataclass(frozen=True, slots=True)
class NewRuntime:
    """An agent runtime to be made, with its version 1 and its DEFAULT endpoint."""

    runtime_id: str
    name: str
    arn: str
    workload_identity: str
    version: NewVersion
    tags: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version's configuration; immutable once stored. Both hold environment variables: never logged."""

    received: Json = field(repr=False)
    """The request's members as the caller sent them."""
    configuration: Json = field(repr=False)
    """The same, with every default filled in."""
    description: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a change was answered with; kept with its client token."""

    runtime_id: str
    version: int
    status: RuntimeStatus
    workload_identity: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class RuntimeRow:
    key: RuntimeKey
    name: str
    status: RuntimeStatus
    failure_reason: str | None
    latest_version: int
    workload_identity: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class VersionRow:
    version: int
    status: RuntimeStatus
    """CREATING or UPDATING until prepared, then READY, CREATE_FAILED or UPDATE_FAILED."""
    failure_reason: str | None
    received: Json = field(repr=False)
    configuration: Json = field(repr=False)
    digest: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class RuntimeSummary:
    """One line of a listing; `description` is that of the latest version."""

    runtime_id: str
    name: str
    status: RuntimeStatus
    latest_version: int
    live_version: int | None
    description: str | None = field(repr=False)
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Position:
    """After which line a listing goes on: lines are in order of (created_at, runtime_id)."""

    created_at: datetime
    runtime_id: str


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """`live_version` is what it serves (None: nothing yet), `target_version` what it is moving to."""

    name: str
    live_version: int | None
    target_version: int


@dataclass(frozen=True, slots=True)
class AccessKeyRow:
    access_key_id: str
    scope: Scope
    sealed_secret: bytes = field(repr=False)
    created_at: datetime
    disabled_at: datetime | None = None


class Store(Protocol):
    """Durable state. `tests/unit/store` runs the same tests over every implementation."""

    # -- changes of agent runtimes, called by the API -------------------------------------------------------------

    def create_runtime(
        self, scope: Scope, new: NewRuntime, *, once: Once | None, max_runtimes: int, now: datetime
    ) -> Receipt:
        """Insert the runtime (CREATING), version 1, DEFAULT, tags and workload identity.

        Raises ValidationFailed (token used with other parameters), Conflict (name), QuotaExceeded.
        """
        ...

    def update_runtime(
        self, key: RuntimeKey, version: NewVersion, *, once: Once | None, max_versions: int, now: datetime
    ) -> Receipt:
        """Add the next version (UPDATING) and make it the endpoint's target.

        Raises ValidationFailed (token), NotFound, Conflict (status), QuotaExceeded.
        """
        ...

    def begin_delete(self, key: RuntimeKey, *, once: Once | None, now: datetime) -> Receipt:
        """Move the runtime to DELETING: from now on it has no route. Raises as update_runtime does."""
        ...

    def delete_version(
        self, key: RuntimeKey, version: int, *, keep: frozenset[str], once: Once | None, now: datetime
    ) -> Receipt:
        """Forget one version, but for the members `keep` of its configuration, which running sessions still need.

        Raises NotFound, and Conflict when the runtime is changing or the version is DEFAULT's, live or target.
        """
        ...

    # -- reading ---------------------------------------------------------------------------------------------------

    def replayed(self, scope: Scope, once: Once, *, now: datetime) -> Receipt | None:
        """The receipt of a call made before; None when it is new. Raises ValidationFailed on other parameters."""
        ...

    def get_runtime(self, key: RuntimeKey, version: int | None = None) -> tuple[RuntimeRow, VersionRow]:
        """The runtime and one version of it (default: the latest). Raises NotFound."""
        ...

    def list_runtimes(self, scope: Scope, *, after: Position | None, limit: int) -> list[RuntimeSummary]: ...

    def list_tags(self, scope: Scope, arn: str) -> dict[str, str]: ...

    def resolve_endpoint(self, key: RuntimeKey, name: str) -> EndpointRow | None:
        """The endpoint if it serves: its live version is READY and the runtime is not being deleted."""
        ...

    def get_contract(self, key: RuntimeKey, version: int) -> Json | None:
        """What is kept of a version's configuration, even if the version was deleted; None when it never was READY."""
        ...

    def get_launch(self, key: RuntimeKey, version: int) -> LaunchSpec | None:
        """How to start a READY version of a runtime that is not being deleted."""
        ...

    # -- progress, called by the reconciler ------------------------------------------------------------------------

    def unfinished(self) -> list[RuntimeKey]:
        """Every runtime in CREATING, UPDATING or DELETING: work that is to be taken up."""
        ...

    def version_ready(self, key: RuntimeKey, version: int, *, digest: str, launch: LaunchSpec, now: datetime) -> None:
        """The version is READY, the runtime too, and DEFAULT serves it. Raises NotFound, Conflict (overtaken)."""
        ...

    def version_failed(self, key: RuntimeKey, version: int, *, reason: str, now: datetime) -> None:
        """The version failed; DEFAULT stays where it was. Raises NotFound, Conflict (overtaken)."""
        ...

    def delete_failed(self, key: RuntimeKey, *, reason: str, now: datetime) -> None: ...

    def remove_runtime(self, key: RuntimeKey) -> None:
        """Remove a runtime in DELETING and everything that is its own. Raises NotFound, Conflict."""
        ...

    # -- access keys -----------------------------------------------------------------------------------------------

    def add_access_key(self, row: AccessKeyRow) -> None: ...

    def get_access_key(self, access_key_id: str) -> AccessKeyRow | None: ...

    def list_access_keys(self) -> list[AccessKeyRow]: ...

    def disable_access_key(self, access_key_id: str, *, now: datetime) -> None:
        """From now on the key is refused. Raises NotFound."""
        ...

    # -- itself ----------------------------------------------------------------------------------------------------

    def get_seal(self) -> bytes | None:
        """What proves that the vault's key is the one that sealed this store's secrets; None in a new store."""
        ...

    def set_seal(self, seal: bytes) -> None:
        """Record the proof, once. Raises Conflict when there is one."""
        ...

    def close(self) -> None: ...
