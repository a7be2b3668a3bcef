"""From a recognised call to a session that is held for it, whatever the call then does there.

For `invoke`, `cards` and `websocket.opening`. Not for claims themselves (`claims`). Invariant: a session that ends
before anything was sent to it is made up for by another, a few times; whoever has got one leaves it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from freehold.control.protocol import Contract
from freehold.domain.errors import NotFound, RetryableConflict, SessionEnded
from freehold.domain.sessions import SessionKey
from freehold.gateway.callers import Call
from freehold.gateway.claims import Claims, LiveClaim
from freehold.gateway.contracts.base import Rules
from freehold.gateway.directory import Directory
from freehold.gateway.exchange import Exchange
from freehold.gateway.resends import Resend
from freehold.gateway.targets import Target, rules_of

_MAX_ATTEMPTS: Final = 3

Ready = TypeVar("Ready")


@dataclass(frozen=True, slots=True)
class Joined:
    """A session that is held, and how the version that runs in it speaks: it may be older than the call's target."""

    claim: LiveClaim
    contract: Contract
    rules: Rules


class Joins:
    """Those of one worker."""

    def __init__(self, claims: Claims, directory: Directory) -> None:
        self._claims = claims
        self._directory = directory

    async def join(
        self,
        exchange: Exchange,
        call: Call,
        session_id: str,
        prepare: Callable[[Joined], Awaitable[Ready]],
        *,
        resumes: bool = False,
        resend: Resend | None = None,
    ) -> tuple[Joined, Ready]:
        """Hold a session for the call, and what `prepare` made for it; the caller leaves it.

        `prepare` raises NotFound when the session turns out to have ended, and then has another; with any other error
        the session has been left. `resumes` and `resend`: see Claims.join, whose errors are raised, too.
        """
        target = call.target
        key = session_key(call, session_id)
        note(exchange, target, session_id)
        for _ in range(_MAX_ATTEMPTS):
            try:
                claim = await self._claims.join(key, target.route.version, resumes=resumes, resend=resend)
            except SessionEnded:
                raise
            except NotFound:
                raise target.named.not_found() from None
            exchange.generation = claim.generation
            try:
                joined = Joined(claim, target.contract, target.rules)
                if claim.version != target.contract.version:
                    contract = await self._directory.contract(key.account, key.runtime_id, claim.version)
                    joined = Joined(claim, contract, rules_of(contract))
                return joined, await prepare(joined)
            except NotFound:
                # Nothing has been sent: whoever joins now gets a new session.
                self._claims.forget(claim)
                self._claims.leave(claim, resend)
            except BaseException:
                self._claims.leave(claim, resend)
                raise
        raise RetryableConflict("Session operation in progress, please retry")


def session_key(call: Call, session_id: str) -> SessionKey:
    """Whose session, and which."""
    return SessionKey(
        account=call.target.named.account,
        runtime_id=call.target.named.runtime_id,
        endpoint=call.target.route.endpoint,
        owner=call.principal.owner,
        session_id=session_id,
    )


def note(exchange: Exchange, target: Target, session_id: str) -> None:
    """For whoever watches (`observer`). Only once the caller is known to own the target."""
    exchange.runtime_id = target.named.runtime_id
    exchange.endpoint = target.route.endpoint
    exchange.session_id = session_id
