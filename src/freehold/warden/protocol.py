"""What the warden is asked and what it answers.

A gateway worker *claims* a session before it relays to it and *releases* the claim when nothing is in flight. A
claim keeps the session from ending as idle; it may be kept for a moment after the last request, since a release says
when the last activity really was. A worker whose connection closes has released everything.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from freehold import ipc
from freehold.domain.sessions import EndReason, SessionKey, SessionState
from freehold.domain.usage import Usage
from freehold.warden.tally import EndpointTally

# -- asked ------------------------------------------------------------------------------------------------------


class Claim(msgspec.Struct, tag="claim", frozen=True):
    """Join the session `key`, starting it with `version` when there is none. Answered by Claimed.

    Errors: StartFailed, QuotaExceeded, RetryableConflict, NotFound (no such version), SessionEnded, Unavailable.
    """

    key: SessionKey
    version: int
    sockets: int = 1
    """How many connected sockets to the session's contract port are wanted at once."""
    resumes: bool = False
    """The caller means to go on with what is there: where the last session of this key was bound and has ended, the
    answer is SessionEnded, and none is started."""


class Bind(msgspec.Struct, tag="bind", frozen=True):
    """The agent has begun a session of its own, which it calls `agent_session`, for the caller of this one: from now on
    the two are one. For a session that this worker has claimed; answered by Done once all its claimants know.

    Errors: NotFound (it has ended), RetryableConflict (it is bound to another one).
    """

    generation: int
    agent_session: str


class Dial(msgspec.Struct, tag="dial", frozen=True):
    """More connected sockets for a session this worker has claimed. Answered by Dialed, or NotFound when it ended."""

    generation: int
    sockets: int = 1


class Answered(msgspec.Struct, tag="answered", frozen=True):
    """A request's whole answer, small as it is (see MAX_KEPT_ANSWER_BYTES)."""

    status: int
    lines: bytes
    """Headers, but for those that the gateway adds to each answer."""
    body: bytes


class Enter(msgspec.Struct, tag="enter", frozen=True):
    """One request more in a session this worker has claimed; until Leave, or until the claim ends. Answered by Done, or
    by Answered when it is one that was answered before: then it has not entered.

    Only sent where a setting limits requests, or keeps those that are sent again from agents. Errors: NotFound (it has
    ended), RetryableConflict (as many as may be are under way in it, or this one is), Conflict (this one was passed on
    before, and its answer is not kept), Throttled (its runtime has had as many as may be, lately).
    """

    generation: int
    once: bytes = b""
    """A digest by which a request is known when it is sent again; empty: it is another one each time."""


class Leave(msgspec.Struct, tag="leave", frozen=True):
    """One request that entered has completed (notification)."""

    generation: int
    once: bytes = b""
    """As it entered."""
    reached: bool = True
    """Whether anything of it may have reached the agent."""
    answer: Answered | None = None
    """What is to be answered when it comes again."""


class Release(msgspec.Struct, tag="release", frozen=True):
    """Nothing of this worker is in flight in `generation` any more (notification)."""

    generation: int
    last_activity_age_s: float
    """Seconds since the last request completed."""
    requests: int = 0
    """How many requests this claim was held for."""


class StopSession(msgspec.Struct, tag="stop", frozen=True):
    """End the session now, whatever is in flight. Answered by Done once it has ended, or NotFound."""

    key: SessionKey


class StopRuntime(msgspec.Struct, tag="stop_runtime", frozen=True):
    """End every session of a runtime (control: it is deleted). Answered by Done once they have ended."""

    account: str
    runtime_id: str
    endpoint: str | None = None
    """Only those of this endpoint, which is deleted; the runtime stays."""


class ListSessions(msgspec.Struct, tag="list", frozen=True):
    """One page of running sessions in order of generation, after `after`. Answered by SessionPage."""

    after: int = 0
    limit: int = 100
    account: str | None = None
    runtime_id: str | None = None
    with_usage: bool = False
    """Measured now: a look at every process of the host, so only when it is asked for."""


class FindSession(msgspec.Struct, tag="find", frozen=True):
    """One session, running or ended, by its generation. Answered by SessionFound, or NotFound."""

    account: str
    generation: int


class StopGeneration(msgspec.Struct, tag="stop_generation", frozen=True):
    """End this session now. Answered by Done once it has ended, or NotFound; RetryableConflict while it starts."""

    account: str
    generation: int


class ListEnded(msgspec.Struct, tag="list_ended", frozen=True):
    """One page of ended sessions, the newest generation first, below `before`. Answered by EndedPage."""

    account: str
    runtime_id: str | None = None
    session_id: str | None = None
    before: int | None = None
    limit: int = 50


class GetTally(msgspec.Struct, tag="get_tally", frozen=True):
    """What has been counted of sessions by endpoint, from the `start`-th on. Answered by TallyPage.

    With `start` 0, running sessions are measured first.
    """

    start: int = 0


# -- answered ---------------------------------------------------------------------------------------------------


class Claimed(msgspec.Struct, tag="claimed", frozen=True):
    """The claim holds. The reply carries the sockets asked for, connected and non-blocking."""

    generation: int
    version: int
    """The version that runs in this session: older than the one asked for when the session is older."""
    started: bool
    """Whether this claim started the session."""
    agent_session: str | None = None
    """What the agent calls the session of its own that this one is bound to; None when it is not."""


class Dialed(msgspec.Struct, tag="dialed", frozen=True):
    """The reply carries the sockets."""


class Bound(msgspec.Struct, tag="bound", frozen=True):
    """Another worker has bound a session that this one has claimed, too (see Bind). Answered by Done."""

    generation: int
    agent_session: str


class Ended(msgspec.Struct, tag="ended", frozen=True):
    """A session that this worker has claimed has ended (notification): its sockets are dead."""

    generation: int
    reason: EndReason


class SessionInfo(msgspec.Struct, frozen=True):
    generation: int
    key: SessionKey
    version: int
    state: SessionState
    claims: int
    age_s: float
    idle_s: float
    requests: int = 0
    """Requests of released claims: those of a claim that is still held are not counted yet."""
    usage: Usage | None = None


class SessionPage(msgspec.Struct, tag="sessions", frozen=True):
    sessions: list[SessionInfo]


class SessionRecord(msgspec.Struct, frozen=True):
    """What is kept of a session, from its start until its log is removed. Instants are UTC."""

    generation: int
    key: SessionKey
    version: int
    log_group: str
    started_at: datetime
    ended_at: datetime | None = None
    reason: EndReason | None = None
    detail: str | None = None
    """The exit of the agent, or why it did not start; at most MAX_DETAIL characters."""
    requests: int = 0
    usage: Usage | None = None
    """At the end, as far as it was known then."""
    bound: bool = False
    """Whether the agent held a session of its own in it, so that none can go on in its place (see Bind)."""


class EndedPage(msgspec.Struct, tag="ended_sessions", frozen=True):
    sessions: list[SessionRecord]


class SessionFound(msgspec.Struct, tag="found", frozen=True):
    """Exactly one of the two."""

    running: SessionInfo | None = None
    ended: SessionRecord | None = None


class TallyPage(msgspec.Struct, tag="tally", frozen=True):
    """Fewer than `tally.PAGE_SIZE` are the last."""

    endpoints: list[EndpointTally]


MAX_KEPT_ANSWER_BYTES = 64 * 1024
"""Body of an answer that is kept for a request that is sent again."""
MAX_DETAIL = 1500
"""So that a page of MAX_ENDED_PAGE records fits a message."""
MAX_ENDED_PAGE = 50

REQUESTS = ipc.decoder(
    Claim,
    Bind,
    Dial,
    Enter,
    Leave,
    Release,
    StopSession,
    StopRuntime,
    ListSessions,
    FindSession,
    StopGeneration,
    ListEnded,
    GetTally,
)
"""What the warden receives."""
REPLIES = ipc.decoder(Claimed, Dialed, Answered, Bound, Ended, SessionPage, EndedPage, SessionFound, TallyPage)
"""What its clients receive."""
