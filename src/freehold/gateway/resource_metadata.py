"""Where a caller without a good token is sent: the metadata of a runtime as an OAuth protected resource.

Not for tokens (`bearers`). Pure. Source: spec sections 4.2 and 4.3 (recorded), RFC 9728, RFC 6750 section 3. Invariant:
no URL here is made of anything that the caller sent but the endpoint's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import msgspec

from freehold.auth.jwt_claims import Authorizer
from freehold.domain.arns import AgentRuntimeArn
from freehold.gateway.targets import Target

METADATA: Final = "/.well-known/oauth-protected-resource"


@dataclass(frozen=True, slots=True)
class Resources:
    """The runtimes of one server, as callers reach them at `public_url` (scheme and authority)."""

    public_url: str
    region: str

    def challenge(self, target: Target) -> bytes:
        """The value of WWW-Authenticate."""
        told = f'Bearer resource_metadata="{self._url(target, METADATA)}"'
        scopes = _scopes(target.contract.authorizer)
        if scopes:
            told += f', scope="{" ".join(scopes)}"'
        return told.encode()

    def document(self, target: Target, issuer: str) -> bytes:
        """The metadata, in JSON."""
        said: dict[str, str | list[str]] = {"authorization_servers": [issuer], "resource": self._url(target)}
        scopes = _scopes(target.contract.authorizer)
        if scopes:
            said["scopes_supported"] = list(scopes)
        return msgspec.json.encode(said)

    def _url(self, target: Target, below: str = "") -> str:
        named = target.named
        arn = AgentRuntimeArn(self.region, named.account, named.runtime_id)
        runtime, qualifier = quote(str(arn), safe=""), quote(named.qualifier, safe="")
        return f"{self.public_url}/runtimes/{runtime}/invocations{below}?qualifier={qualifier}"


def _scopes(authorizer: Authorizer | None) -> tuple[str, ...]:
    return () if authorizer is None else authorizer.advertised_scopes
