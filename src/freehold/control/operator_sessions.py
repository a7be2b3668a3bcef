"""Sessions as an operator sees them: what runs, what has run and why it ended, and stopping one.

Not for the data plane's StopRuntimeSession. Invariant: a caller sees and stops the sessions of their account alone.
"""

from __future__ import annotations

from typing import Any, Final

from freehold.control.operator_queries import Query, number
from freehold.control.warden_link import Warden
from freehold.domain.sessions import SessionKey
from freehold.domain.usage import Usage
from freehold.warden import log_files, protocol

MAX_PAGE: Final = 100


async def running(warden: Warden, account: str, query: Query) -> dict[str, Any]:
    """One page in order of generation; `nextAfter` is there when the page was full."""
    limit = query.number("maxResults", at_least=1, at_most=MAX_PAGE) or MAX_PAGE
    page = await warden.sessions(
        after=query.number("after") or 0,
        limit=limit,
        account=account,
        runtime_id=query.runtime_id(),
        with_usage=query.flag("usage"),
    )
    answer: dict[str, Any] = {"sessions": [_running(session) for session in page]}
    if len(page) >= limit:
        answer["nextAfter"] = page[-1].generation
    return answer


async def ended(warden: Warden, account: str, query: Query) -> dict[str, Any]:
    """One page of ended sessions, the newest first; `nextBefore` is there when the page was full."""
    limit = query.number("maxResults", at_least=1, at_most=protocol.MAX_ENDED_PAGE) or protocol.MAX_ENDED_PAGE
    page = await warden.ended(
        protocol.ListEnded(
            account,
            runtime_id=query.runtime_id(),
            session_id=query.session_id(),
            before=query.number("before"),
            limit=limit,
        )
    )
    answer: dict[str, Any] = {"sessions": [_ended(record) for record in page]}
    if len(page) >= limit:
        answer["nextBefore"] = page[-1].generation
    return answer


async def show(warden: Warden, account: str, generation: str) -> dict[str, Any]:
    """One session, running or ended. Raises NotFound."""
    found = await warden.find(account, number("generation", generation))
    if found.running is not None:
        return _running(found.running)
    assert found.ended is not None
    return _ended(found.ended)


async def stop(warden: Warden, account: str, generation: str) -> dict[str, Any]:
    """End one session; answers its record. Raises NotFound."""
    which = number("generation", generation)
    await warden.stop(account, which)
    found = await warden.find(account, which)
    return {} if found.ended is None else _ended(found.ended)


def _running(session: protocol.SessionInfo) -> dict[str, Any]:
    return {
        **_identity(session.generation, session.key, session.version),
        "state": session.state.value,
        "claims": session.claims,
        "requests": session.requests,
        "ageSeconds": round(session.age_s, 3),
        "idleSeconds": round(session.idle_s, 3),
        "usage": _usage(session.usage),
    }


def _ended(record: protocol.SessionRecord) -> dict[str, Any]:
    return {
        **_identity(record.generation, record.key, record.version),
        "state": "ENDED",
        "requests": record.requests,
        "startedAt": record.started_at,
        "endedAt": record.ended_at,
        "reason": None if record.reason is None else record.reason.value,
        "detail": record.detail,
        "usage": _usage(record.usage),
    }


def _identity(generation: int, key: SessionKey, version: int) -> dict[str, Any]:
    return {
        "generation": generation,
        "runtimeId": key.runtime_id,
        "endpoint": key.endpoint,
        "sessionId": key.session_id,
        "version": version,
        "logGroup": log_files.log_group(key),
    }


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "cpuSeconds": usage.cpu_s,
        "memoryBytes": usage.memory_bytes,
        "memoryPeakBytes": usage.memory_peak_bytes,
        "processes": usage.processes,
    }
