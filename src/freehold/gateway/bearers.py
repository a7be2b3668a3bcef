"""Who bears this token: JWT callers of one runtime version.

Not for SigV4 (`freehold.auth.sigv4`). Invariant: a Principal comes only from a token that the version's own authorizer
takes.
"""

from __future__ import annotations

from freehold.auth.sigv4 import SignatureRefused
from freehold.domain.principals import Principal
from freehold.gateway.heads import RequestHead
from freehold.gateway.targets import Target


class Bearers:
    """Checks tokens."""

    async def check(self, head: RequestHead, target: Target) -> Principal:
        """The caller. Raises AccessDenied."""
        raise SignatureRefused.other_method()
