"""Which session an MCP request is for, and what the agent is told of it.

A client knows its session by one id, Mcp-Session-Id. It is the id of our session, too: it selects the sandbox. A server
that keeps no sessions is sent this id. One that keeps some makes an id of its own when its client initializes; the
warden holds it beside the session (see warden.protocol.Bind), so that every worker sends the server its own id and the
client ours. Source: spec section 1.9; where that is silent, docs/reference/protocols.md says what was chosen.

Not for moving bytes. Invariant: a server is never sent another id than one that it made, or, if it made none, ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from freehold.domain import sessions
from freehold.domain.errors import AgentFailed, FieldProblem, ValidationFailed
from freehold.gateway.contracts import mcp
from freehold.gateway.exchange import new_id
from freehold.gateway.heads import Headers, ResponseHead

MAX_AGENT_SESSION_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request means to do."""

    session_id: str
    opens: bool = False
    """Whether it initializes: the server may begin a session of its own, and answers with its id."""
    resumes: bool = False
    """Whether it goes on with a session that the client was given."""
    may_move: bool = False
    """Whether another session does as well, should this one be taken."""

    def elsewhere(self) -> Asked:
        """The same in a session of its own."""
        return Asked(new_id(), opens=self.opens)

    def told_agent(self, agent_session: str | None) -> Headers:
        """What the agent is sent; `agent_session` is what it calls the session of its own, if it has made one."""
        if agent_session is not None:
            return [(mcp.SESSION_ID, agent_session.encode())]
        return [] if self.opens else [(mcp.SESSION_ID, self.session_id.encode())]


def asked(params: Mapping[str, Any], headers: Headers, method: str | None, *, owner: str, version: int) -> Asked:
    """What a request with these parameters means to do, as `owner`, at an endpoint that serves `version`.

    Raises Unacceptable, ValidationFailed.
    """
    mcp.check_accept(headers)
    opens = method == "initialize"
    given: str | None = params.get("mcpSessionId")
    if given is not None:
        if not sessions.is_session_id(given):
            problem = "Member must be an id that this server has given, or 33 to 256 characters of [a-zA-Z0-9-_]"
            raise ValidationFailed(
                f"1 validation error detected: Value at 'mcpSessionId' failed to satisfy constraint: {problem}",
                fields=(FieldProblem("mcpSessionId", problem),),
            )
        return Asked(given, opens=opens, resumes=not opens)
    named: str | None = params.get("runtimeSessionId")
    if named is not None:
        return Asked(named, opens=opens, may_move=opens)
    if opens or mcp.has_handshake(headers):
        return Asked(new_id(), opens=opens)
    return Asked(shared_id(owner, version, params.get("runtimeUserId") or ""))


def shared_id(owner: str, version: int, user_id: str) -> str:
    """The session of all requests that can't name one, of one caller.

    Versions of the protocol without a handshake have no way to give a client an id that it would send again; and their
    servers may hand out what only the same process understands.
    """
    digest = hashlib.sha256(f"{owner}\0{version}\0{user_id}".encode()).hexdigest()
    return f"shared-{digest[:40]}"


def made_by(head: ResponseHead) -> str | None:
    """The id of the session that a server has begun. Raises AgentFailed when it can't be one."""
    value = next((value for name, value in head.headers if name == mcp.SESSION_ID), b"")
    if not value:
        return None
    if len(value) > MAX_AGENT_SESSION_BYTES or not all(0x21 <= byte <= 0x7E for byte in value):
        raise AgentFailed(
            f"The runtime's Mcp-Session-Id is not 1 to {MAX_AGENT_SESSION_BYTES} visible ASCII characters."
        )
    return value.decode("ascii")
