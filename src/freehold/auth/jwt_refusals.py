"""Why a bearer token is not taken: what its caller is told, and what only the log says.

For: the modules beside this one that look at tokens, and the gateway, which logs `checks` and answers the rest. Not for
statuses (`gateway.errors`). Invariant: neither text nor check holds any part of a token, its claims included.

Source of the texts: spec section 4.2 (recorded), and the MCP contract's table of errors for what was not recorded.
"""

from __future__ import annotations

from typing import Final

from freehold.domain.errors import AccessDenied, Unauthenticated

MISSING: Final = "Missing Authentication Token"
UNREADABLE: Final = "OAuth authorization failed: Failed to parse token"
NOT_GOOD: Final = "Authentication error - Invalid credentials"


class TokenRefused(Unauthenticated):
    """There is no token, or it is not good for this runtime. `checks` names what failed, for the log."""

    def __init__(self, *checks: str, message: str = NOT_GOOD) -> None:
        super().__init__(message)
        self.checks = checks


class UnknownKey(TokenRefused):
    """No key of the set can have signed this token; a newer set of keys may hold one that did.

    `wanted` is the same for tokens that want the same key, as far as they say so.
    """

    def __init__(self, check: str, *, wanted: bytes) -> None:
        super().__init__(check)
        self.wanted = wanted


class TokenUnreadable(AccessDenied):
    """What was sent as a token can't be read as one. `checks` says where reading ended, for the log."""

    def __init__(self, *checks: str) -> None:
        super().__init__(UNREADABLE)
        self.checks = checks


def missing() -> TokenRefused:
    """The answer to a request without a token."""
    return TokenRefused("token is missing", message=MISSING)
