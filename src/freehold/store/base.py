"""What Freehold remembers: small atomic verbs, each one transaction, written for their callers.

For: control, which alone holds a store. Not for: deciding what a configuration may say (`control.configuration`) or
for secrets in the clear (`store.vault` seals them first). Invariant: every verb either happens wholly, durably, or
not at all; a status changes only along `domain.runtimes.TRANSITIONS`.

Verbs are synchronous and thread-safe: call them from worker threads. Instants are timezone-aware and come from the
caller. Expected failures are of `domain.errors`; a store that can't be reached in time raises Unavailable.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import msgspec

from freehold.domain.launch import LaunchSpec
from freehold.domain.runtimes import RuntimeStatus

CLIENT_TOKEN_LIFETIME: Final = timedelta(hours=24)
"""How long a client token is remembered (ours: the service does not say; other AWS services keep them 24 h)."""

NAME_TAKEN: Final = "An agent with the specified name already exists"
"""The service's words (spec section 3.3)."""

NO_RESOURCE: Final = "No resource found with the specified ARN"

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
class Ready:
    """What makes a version READY. `launch` gets the version's number when that is known."""

    digest: str
    launch: LaunchSpec


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version's configuration; immutable once stored. Both hold environment variables: never logged."""

    received: Json = field(repr=False)
    """The request's members as the caller sent them."""
    configuration: Json = field(repr=False)
    """The same, with every default filled in."""
    description: str | None = field(default=None, repr=False)
    ready: Ready | None = None
    """When its code is prepared already: nothing more has to be done for it."""


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


class RuntimeSummary(msgspec.Struct, frozen=True):
    """One line of a listing, made by the hundred; `description` is that of the latest version."""

    runtime_id: str
    name: str
    status: RuntimeStatus
    latest_version: int
    description: str | None
    created_at: datetime
    updated_at: datetime

    def __repr__(self) -> str:
        return f"RuntimeSummary({self.runtime_id!r}, {self.status})"


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
class EndpointKey:
    """One endpoint. Its name is sensitive by the service's model: never in a message or a log."""

    runtime: RuntimeKey
    name: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """A named endpoint to be made; without `version` it gets the runtime's latest."""

    name: str = field(repr=False)
    arn: str = field(repr=False)
    version: int | None = None
    description: str | None = None
    tags: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as it stands: its status follows from its versions and its runtime."""

    name: str = field(repr=False)
    live_version: int | None
    target_version: int
    description: str | None
    status: RuntimeStatus
    failure_reason: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class EndpointReceipt:
    """What a change of an endpoint was answered with; kept with its client token."""

    runtime_id: str
    name: str = field(repr=False)
    live_version: int | None
    target_version: int
    status: RuntimeStatus
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class EndpointPosition:
    """After which endpoint a listing goes on: in order of (created_at, name)."""

    created_at: datetime
    name: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class VersionSummary:
    version: int
    status: RuntimeStatus
    description: str | None = field(repr=False)
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that has an ARN, tags and policies: a runtime, an endpoint of it, or a workload identity.

    `arn` is written by `domain.arns`, so that one resource has one ARN.
    """

    scope: Scope
    arn: str = field(repr=False)
    runtime_id: str | None = None
    endpoint: str | None = field(default=None, repr=False)
    identity: str | None = None


@dataclass(frozen=True, slots=True)
class WorkloadIdentity:
    """`runtime_id`: the runtime with which it came, and will go."""

    name: str
    return_urls: list[str] | None
    runtime_id: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class AccessKeyRow:
    access_key_id: str
    scope: Scope
    sealed_secret: bytes = field(repr=False)
    created_at: datetime
    disabled_at: datetime | None = None
    """From when on the key is refused: of one that was rotated or is temporary, this may lie ahead."""


class Store(Protocol):
    """Durable state. `tests/unit/store` runs the same tests over every implementation."""

    @property
    def reads_wait(self) -> bool:
        """Whether reading may wait, for a network or for who writes. Where not, it needs no worker thread."""
        ...

    # -- changes of agent runtimes, called by the API -------------------------------------------------------------

    def create_runtime(
        self, scope: Scope, new: NewRuntime, *, once: Once | None, max_runtimes: int, now: datetime
    ) -> Receipt:
        """Insert the runtime (CREATING), version 1, DEFAULT, tags and workload identity; READY if the version is.

        Raises ValidationFailed (token used with other parameters), Conflict (name), QuotaExceeded.
        """
        ...

    def update_runtime(
        self, key: RuntimeKey, version: NewVersion, *, once: Once | None, max_versions: int, now: datetime
    ) -> Receipt:
        """Add the next version (UPDATING) and make it the endpoint's target; READY, and served, if the version is.

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

    def live_versions(self, scope: Scope, runtime_ids: Collection[str]) -> dict[str, int | None]:
        """What the DEFAULT endpoints of these runtimes serve, of those that there are."""
        ...

    def list_tags(self, scope: Scope, arn: str) -> dict[str, str]: ...

    def list_versions(
        self, key: RuntimeKey, *, after: int | None, limit: int
    ) -> tuple[RuntimeRow, list[VersionSummary]]:
        """The runtime and its versions above `after`, in order. Raises NotFound."""
        ...

    def resolve_endpoint(self, key: RuntimeKey, name: str) -> EndpointRow | None:
        """The endpoint if it serves: its live version is READY and the runtime is not being deleted."""
        ...

    def get_contract(self, key: RuntimeKey, version: int) -> Json | None:
        """What is kept of a version's configuration, even if the version was deleted; None when it never was READY."""
        ...

    def get_launch(self, key: RuntimeKey, version: int) -> LaunchSpec | None:
        """How to start a READY version of a runtime that is not being deleted."""
        ...

    def get_digest(self, key: RuntimeKey, version: int) -> str | None:
        """The digest of a version's artifact, even if the version was deleted; None when it never was READY."""
        ...

    def digests(self) -> frozenset[str]:
        """The digests of every version that was READY and is not deleted, of every account."""
        ...

    # -- named endpoints -------------------------------------------------------------------------------------------

    def create_endpoint(
        self, key: RuntimeKey, new: NewEndpoint, *, once: Once | None, max_endpoints: int, now: datetime
    ) -> EndpointReceipt:
        """Make an endpoint, which serves its version as soon as that is READY.

        Raises ValidationFailed (token), NotFound, Conflict (name, runtime's or version's status), QuotaExceeded.
        """
        ...

    def update_endpoint(
        self, key: EndpointKey, *, version: int | None, description: str | None, once: Once | None, now: datetime
    ) -> EndpointReceipt:
        """Change what is given. Raises ValidationFailed (token), NotFound, Conflict (DEFAULT, status)."""
        ...

    def begin_delete_endpoint(self, key: EndpointKey, *, once: Once | None, now: datetime) -> EndpointReceipt:
        """Move the endpoint to DELETING: no route, but its name stays taken. Raises as update_endpoint does."""
        ...

    def get_endpoint(self, key: EndpointKey) -> Endpoint:
        """Raises NotFound."""
        ...

    def list_endpoints(self, key: RuntimeKey, *, after: EndpointPosition | None, limit: int) -> list[Endpoint]:
        """Raises NotFound when there is no such runtime."""
        ...

    def deleting_endpoints(self) -> list[EndpointKey]:
        """Every endpoint in DELETING: work that is to be taken up."""
        ...

    def endpoint_delete_failed(self, key: EndpointKey, *, reason: str, now: datetime) -> None: ...

    def remove_endpoint(self, key: EndpointKey) -> None:
        """Remove an endpoint in DELETING with its tags and its policy. Raises NotFound, Conflict."""
        ...

    # -- tags, policies, workload identities -----------------------------------------------------------------------

    def tag(self, resource: Resource, tags: dict[str, str], *, max_tags: int) -> None:
        """Add or replace tags. Raises NotFound, QuotaExceeded."""
        ...

    def untag(self, resource: Resource, keys: list[str]) -> None:
        """Raises NotFound when there is no such resource."""
        ...

    def get_tags(self, resource: Resource) -> dict[str, str]:
        """Raises NotFound when there is no such resource."""
        ...

    def put_policy(self, resource: Resource, policy: str, *, now: datetime) -> None:
        """Raises NotFound when there is no such resource."""
        ...

    def get_policy(self, resource: Resource) -> str | None:
        """Raises NotFound when there is no such resource."""
        ...

    def delete_policy(self, resource: Resource) -> None:
        """Raises NotFound when there is no such resource."""
        ...

    def create_identity(
        self, resource: Resource, *, return_urls: list[str] | None, tags: dict[str, str], now: datetime
    ) -> WorkloadIdentity:
        """Raises Conflict when the name is taken."""
        ...

    def update_identity(
        self, scope: Scope, name: str, *, return_urls: list[str] | None, now: datetime
    ) -> WorkloadIdentity:
        """Replace its return URLs. Raises NotFound."""
        ...

    def get_identity(self, scope: Scope, name: str) -> WorkloadIdentity:
        """Raises NotFound."""
        ...

    def list_identities(self, scope: Scope, *, after: str | None, limit: int) -> list[WorkloadIdentity]:
        """Those with names above `after`, in order."""
        ...

    def delete_identity(self, resource: Resource) -> None:
        """Raises NotFound, and ValidationFailed for one that belongs to a runtime."""
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

    def serving(self) -> list[tuple[RuntimeKey, int]]:
        """Every version that an endpoint serves."""
        ...

    def replace_launch(self, key: RuntimeKey, version: int, launch: LaunchSpec) -> None:
        """A READY version's bundle was made again, of the same bytes. Raises NotFound when it has gone meanwhile."""
        ...

    def note_fault(self, key: RuntimeKey, version: int, reason: str | None) -> None:
        """Record why a READY version can't be started, or None: it can. Its status, and what it serves, stay."""
        ...

    def forget(self, *, deleted_before: datetime, now: datetime) -> int:
        """Remove client tokens that have expired and what was kept of versions deleted before; how many rows."""
        ...

    def remove_runtime(self, key: RuntimeKey) -> None:
        """Remove a runtime in DELETING and everything that is its own. Raises NotFound, Conflict."""
        ...

    # -- access keys -----------------------------------------------------------------------------------------------

    def add_access_key(self, row: AccessKeyRow) -> None: ...

    def get_access_key(self, access_key_id: str) -> AccessKeyRow | None: ...

    def list_access_keys(self) -> list[AccessKeyRow]: ...

    def disable_access_key(self, access_key_id: str, *, now: datetime) -> None:
        """From now on the key is refused. Raises NotFound, and Conflict for the last one of its account that lasts."""
        ...

    def replace_access_key(self, access_key_id: str, new: AccessKeyRow, *, until: datetime) -> None:
        """Add `new`, and refuse the other from `until` on. Raises NotFound, and Conflict when it ends already."""
        ...

    def forget_access_keys(self, prefix: str, *, disabled_before: datetime) -> None:
        """Remove the rows of keys whose ids begin so and that were refused before."""
        ...

    def delete_access_key(self, access_key_id: str) -> None:
        """Forget the key. Raises as disable_access_key does."""
        ...

    # -- itself ----------------------------------------------------------------------------------------------------

    def get_seal(self) -> bytes | None:
        """What proves that the vault's key is the one that sealed this store's secrets; None in a new store."""
        ...

    def set_seal(self, seal: bytes) -> None:
        """Record the proof, once. Raises Conflict when there is one."""
        ...

    def close(self) -> None: ...
