"""What control tells the other processes: routes and keys for gateway workers, launches for the warden.

A gateway worker may keep what it was told until control says Changed, which control sends, and awaits the answer to,
before it answers the API call that made the change; and until its connection to control breaks *and is made
again*: while control is away nothing can change.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from freehold import ipc
from freehold.auth.jwt_claims import Authorizer
from freehold.auth.public_keys import PublicKey
from freehold.domain.launch import LaunchSpec
from freehold.domain.runtimes import ServerProtocol
from freehold.observe.counts import Series
from freehold.observe.spans import SpanRecord

# -- asked by gateway workers ----------------------------------------------------------------------------------


class Hello(msgspec.Struct, tag="hello", frozen=True):
    """First message of a gateway worker: send me changes. Answered by Welcome."""

    worker: int


class ResolveEndpoint(msgspec.Struct, tag="resolve", frozen=True):
    """Which version does this endpoint serve? Answered by EndpointRoute, or NotFound."""

    account: str
    runtime_id: str
    qualifier: str


class GetContract(msgspec.Struct, tag="contract", frozen=True):
    """How to speak to sessions of a version. Answered by Contract, or NotFound."""

    account: str
    runtime_id: str
    version: int


class GetKeySet(msgspec.Struct, tag="key_set", frozen=True):
    """The keys that sign tokens for a version. Answered by KeySet, NoKeySet, or NotFound (no version, no authorizer).

    `lacking` is the generation in which a token's key was not found: a newer one is wanted, if there is one.
    """

    account: str
    runtime_id: str
    version: int
    lacking: str | None = None


class GetAccessKey(msgspec.Struct, tag="key", frozen=True):
    """The secret of an access key. Answered by AccessKey, or NotFound (unknown or disabled)."""

    access_key_id: str


# -- asked by the warden ---------------------------------------------------------------------------------------


class GetLaunch(msgspec.Struct, tag="launch", frozen=True):
    """How to start a version's sessions. Answered by Launch, or NotFound."""

    account: str
    runtime_id: str
    version: int


class SpansEnded(msgspec.Struct, tag="spans", frozen=True):
    """Spans of a gateway worker, to be exported (notification)."""

    spans: list[SpanRecord]


# -- answered --------------------------------------------------------------------------------------------------


class Welcome(msgspec.Struct, tag="welcome", frozen=True):
    """`data_plane` is the compiled service model of the data plane's operations (`aws.model.Service.to_data`)."""

    data_plane: dict[str, Any]


class EndpointRoute(msgspec.Struct, tag="route", frozen=True):
    """A serving endpoint: new sessions through it run `version`."""

    account: str
    runtime_id: str
    endpoint: str
    version: int


class Contract(msgspec.Struct, tag="contract_is", frozen=True):
    """What the gateway must know to relay to sessions of one version."""

    version: int
    protocol: ServerProtocol
    port: int
    header_allowlist: list[str]
    """Lower-case names of request headers that reach the agent beyond those of the contract."""
    path: str | None = None
    """Where invocations go at the agent, if not where its protocol says."""
    authorizer: Authorizer | None = None
    """What callers' tokens are judged by; None where callers sign."""


class KeySet(msgspec.Struct, tag="key_set_is", frozen=True):
    """An identity provider's keys. `generation` changes with its issuer and keys, and with nothing else."""

    name: str
    """That of `Authorizer.key_set`."""
    issuer: str
    generation: str
    keys: list[PublicKey]
    usable_for_s: float
    """From now on; beyond it they are not used, whoever is away."""
    refresh_in_s: float
    """From when on it is to be asked for again, if it is still used."""
    renewal_in_s: float
    """Until asking for a newer one, for a key that it lacks, can be of use."""


class NoKeySet(msgspec.Struct, tag="no_key_set", frozen=True):
    """The provider's keys can't be had just now, and there are none that may still be used."""


class AccessKey(msgspec.Struct, tag="key_is", frozen=True):
    access_key_id: str
    account: str
    secret: str
    session_token: str | None = None
    expires_at: datetime | None = None
    """See auth.keys.AccessKey."""

    def __repr__(self) -> str:
        return f"AccessKey({self.access_key_id})"


class Launch(msgspec.Struct, tag="launch_is", frozen=True):
    spec: LaunchSpec


# -- told to gateway workers -----------------------------------------------------------------------------------


class Changed(msgspec.Struct, tag="changed", frozen=True):
    """Forget what you know of these; answered by Done once forgotten."""

    runtime_ids: list[str] = []
    access_key_ids: list[str] = []
    key_sets: list[str] = []
    """Names; of these there is a newer generation."""


class GetCounts(msgspec.Struct, tag="get_counts", frozen=True):
    """What have you counted, from the `start`-th series on? Answered by GatewayCounts."""

    start: int = 0


class GatewayCounts(msgspec.Struct, tag="counts", frozen=True):
    """One worker's numbers. Those of `series` never go down while it lives; the others are of this moment."""

    series: list[Series]
    """One page; fewer than `observe.counts.PAGE_SIZE` are the last."""
    connections: int
    requests_in_flight: int
    streams: int
    spans_dropped: int
    """Since the worker's start."""


REQUESTS = ipc.decoder(
    Hello, ResolveEndpoint, GetContract, GetKeySet, GetAccessKey, GetLaunch, SpansEnded, GatewayCounts
)
"""What control receives."""
REPLIES = ipc.decoder(Welcome, EndpointRoute, Contract, KeySet, NoKeySet, AccessKey, Launch, Changed, GetCounts)
"""What its clients receive."""
