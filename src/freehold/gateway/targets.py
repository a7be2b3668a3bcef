"""What a request is for: the endpoint that its path and query name, and how to speak to what runs behind it.

Not for whether the caller may use it (`callers`) or for the operation's other parameters (`members`). Invariant: what
is wrong with a name is found here and told by whoever knows the caller: until then all of it is one answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from freehold.control.protocol import Contract, EndpointRoute
from freehold.domain import arns
from freehold.domain.errors import FreeholdError, NotFound, ValidationFailed
from freehold.domain.runtimes import DEFAULT_ENDPOINT
from freehold.gateway import contracts
from freehold.gateway.contracts.base import Rules
from freehold.gateway.directory import Directory, Standing
from freehold.gateway.errors import UnknownOperation
from freehold.gateway.familiar import Recent
from freehold.gateway.members import MAX_ECHOED

MAX_FOUND: Final = 1024
MAX_FOUND_BYTES: Final = 1024
"""Of the names of one that is remembered: strangers may ask, too."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a request's path and query name, as text; nothing of it is known to exist."""

    given: str
    """The runtime as the caller wrote it, decoded."""
    account: str
    runtime_id: str
    qualifier: str

    def not_found(self) -> NotFound:
        return NotFound(f"No endpoint or agent found with qualifier '{self.qualifier}' for agent '{self.given}'")


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint that serves."""

    named: Named
    route: EndpointRoute
    contract: Contract
    rules: Rules
    standing: Standing = field(default_factory=Standing)
    """Whether all that still holds."""


class Targets:
    """Finds targets of one region."""

    def __init__(self, directory: Directory, *, region: str) -> None:
        self._directory = directory
        self._region = region
        self._found: Recent[tuple[bytes, bytes], Target] = Recent(MAX_FOUND)

    async def find(self, runtime: bytes, raw_query: bytes) -> Target:
        """The target that a path's runtime (percent-encoded) and a query name.

        Raises NotFound, ValidationFailed, UnknownOperation, Unavailable.
        """
        found = self._found.get((runtime, raw_query))
        if found is not None and found.standing.current:
            return found
        named = name(runtime, raw_query, region=self._region)
        standing = self._directory.standing(named.runtime_id)
        try:
            route = await self._directory.route(named.account, named.runtime_id, named.qualifier)
            contract = await self._directory.contract(named.account, named.runtime_id, route.version)
        except NotFound:
            raise named.not_found() from None
        found = Target(named, route, contract, rules_of(contract), standing)
        if len(runtime) + len(raw_query) <= MAX_FOUND_BYTES:
            self._found.put((runtime, raw_query), found)
        return found

    async def spoken(self, runtime: bytes, raw_query: bytes, *, account: str) -> Rules | None:
        """How the named runtime of `account` speaks by default, where the endpoint that is named is not there.

        None where there is no such runtime, or nothing is known of it just now.
        """
        try:
            named = name(runtime, raw_query, region=self._region)
            if named.account != account or named.qualifier == DEFAULT_ENDPOINT:
                return None
            route = await self._directory.route(named.account, named.runtime_id, DEFAULT_ENDPOINT)
            contract = await self._directory.contract(named.account, named.runtime_id, route.version)
            return rules_of(contract)
        except FreeholdError:
            return None


def rules_of(contract: Contract) -> Rules:
    """How its protocol is relayed. Raises UnknownOperation."""
    rules = contracts.REGISTRY.get(contract.protocol)
    if rules is None:
        raise UnknownOperation(f"Freehold does not relay to {contract.protocol} agents yet")
    return rules


def name(runtime: bytes, raw_query: bytes, *, region: str) -> Named:
    """The endpoint that is named. Raises ValidationFailed, or NotFound for what can't exist."""
    given = _text(runtime)[:MAX_ECHOED]
    asked = _first_values(raw_query)
    qualifier = asked.get("qualifier") or DEFAULT_ENDPOINT
    account_id = asked.get("accountId")
    arn = arns.parse_runtime(given)
    if arn is not None:
        named = Named(given, arn.account, arn.runtime_id, qualifier)
        if arn.region != region or (account_id is not None and account_id != arn.account):
            raise named.not_found()
        return named
    if not arns.is_runtime_id(given):
        raise Named(given, "", "", qualifier).not_found()
    if account_id is None:
        raise ValidationFailed("accountId is required when agentRuntimeArn is the id of an agent runtime, not its ARN")
    return Named(given, account_id, given, qualifier)


def _first_values(raw_query: bytes) -> dict[str, str]:
    """What the query says of an endpoint. That it says it once and rightly is checked with the other parameters."""
    found: dict[str, str] = {}
    if raw_query:
        for pair in raw_query.split(b"&"):
            key, _, value = pair.partition(b"=")
            if key in (b"qualifier", b"accountId"):
                found.setdefault(key.decode(), _text(value.replace(b"+", b" ")))
    return found


def _text(encoded: bytes) -> str:
    return unquote_to_bytes(encoded).decode("utf-8", "replace")
