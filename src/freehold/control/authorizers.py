"""customJWTAuthorizer: what it may say, and what it means for the gateway and for whoever fetches keys.

For: `control.configuration`, which accepts it, and the feed and `key_sets`, which read it back. Pure. Not for checking
tokens (`auth.jwt`). Invariant: every member that is accepted is read by `authorizer_of` or `key_source_of`; any other
is refused by name.

Source: spec section 4.1; botocore's model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from freehold.auth.jwt_claims import Authorizer, ClaimRule
from freehold.control.reach import NOWHERE, Place, Reach, Refused
from freehold.domain.errors import FieldProblem

Json = dict[str, Any]

MEMBER: Final = "authorizerConfiguration"
_JWT: Final = "customJWTAuthorizer"
_AT: Final = f"{MEMBER}.{_JWT}"
NOT_SCP: Final = "Custom claim name can't be 'scp'. Please configure claims in the allowed_scopes field"
"""The service's own sentence."""
MAX_BYTES: Final = 64 * 1024
"""Of an authorizer as JSON: every gateway worker keeps it."""
_RULES: Final = ("allowedAudience", "allowedClients", "allowedScopes", "customClaims")
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_VALUE: Final[Json] = {}
_ENDPOINT: Final[Json] = {"selfManagedLatticeResource": {"resourceConfigurationIdentifier": _VALUE}}
UNDERSTOOD: Final[Json] = {
    _JWT: {
        **dict.fromkeys(("discoveryUrl", *_RULES, "advertisedScopeMapping"), _VALUE),
        "privateEndpoint": _ENDPOINT,
        "privateEndpointOverrides": {"domain": _VALUE, "privateEndpoint": _ENDPOINT},
        "certificateConfigurations": {"s3": {"uri": _VALUE}},
    }
}
"""Members that act here, by structure, as in `configuration`; a structure in a list stands for each of the list."""


class KeySource(msgspec.Struct, frozen=True):
    """Where an authorizer's keys come from, and how they are reached. Equal ones share their keys."""

    discovery_url: str
    places: tuple[tuple[str, Place], ...] = ()
    """Hosts that are reached elsewhere than where their names lead."""
    certificate: tuple[str, str] | None = None
    """Bucket and key of PEM certificates of authorities that are trusted beside the host's."""

    @property
    def name(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


# -- reading a normalised configuration ---------------------------------------------------------------------------


def of(configuration: Mapping[str, Any]) -> Json | None:
    """A version's customJWTAuthorizer; None where callers sign."""
    authorizers: Json = configuration.get(MEMBER) or {}
    return authorizers.get(_JWT)


def authorizer_of(
    configuration: Mapping[str, Any], reach: Reach, *, account: str, runtime_id: str
) -> Authorizer | None:
    """What tokens are judged by at the gateway; None where callers sign."""
    said = of(configuration)
    if said is None:
        return None
    scopes: list[str] = said.get("allowedScopes") or []
    advertised: dict[str, str] = said.get("advertisedScopeMapping") or {}
    digest = hashlib.sha256(msgspec.json.encode((account, runtime_id, said), order="sorted"))
    return Authorizer(
        digest=digest.hexdigest(),
        key_set=key_source_of(said, reach).name,
        audiences=tuple(said.get("allowedAudience") or ()),
        clients=tuple(said.get("allowedClients") or ()),
        scopes=tuple(scopes),
        claims=tuple(_claim_rule(rule) for rule in said.get("customClaims") or ()),
        advertised_scopes=tuple(dict.fromkeys(advertised.get(scope, scope) for scope in scopes)),
    )


def key_source_of(said: Json, reach: Reach) -> KeySource:
    """Where its keys come from."""
    url: str = said["discoveryUrl"]
    places: dict[str, Place] = {}
    if (resource := _resource(said.get("privateEndpoint") or {})) is not None:
        places[_host_of(url)] = _place(resource, reach) or NOWHERE
    for override in said.get("privateEndpointOverrides") or ():
        if (resource := _resource(override["privateEndpoint"])) is not None:
            places[override["domain"].lower()] = _place(resource, reach) or NOWHERE
    return KeySource(url, tuple(sorted(places.items())), certificate_of(said))


def certificate_of(said: Json) -> tuple[str, str] | None:
    """Bucket and key of the private authority's certificate."""
    for certificate in said.get("certificateConfigurations") or ():
        bucket, _, key = certificate["s3"]["uri"].removeprefix("s3://").partition("/")
        return bucket, key
    return None


def _claim_rule(rule: Json) -> ClaimRule:
    match = rule["authorizingClaimMatchValue"]["claimMatchValue"]
    single: str | None = match.get("matchValueString")
    values: list[str] = match.get("matchValueStringList") or []
    is_list = rule["inboundTokenClaimValueType"] == "STRING_ARRAY"
    return ClaimRule(rule["inboundTokenClaimName"], is_list, tuple(values if single is None else [single]))


def _host_of(url: str) -> str:
    return (urlsplit(url).hostname or "").rstrip(".")


def _place(resource: str, reach: Reach) -> Place | None:
    """Where the operator has put what stands for a VPC Lattice resource configuration, named by id or ARN."""
    return reach.private_endpoints.get(resource) or reach.private_endpoints.get(resource.rpartition("/")[2])


def _resource(endpoint: Json) -> str | None:
    lattice: Json = endpoint.get("selfManagedLatticeResource") or {}
    return lattice.get("resourceConfigurationIdentifier")


# -- rules --------------------------------------------------------------------------------------------------------


def problems(said: Json, reach: Reach) -> Iterator[FieldProblem]:
    """What is wrong with a customJWTAuthorizer, beyond the model's constraints."""
    yield from _url_problems(said, reach)
    size = len(msgspec.json.encode(said))
    if size > MAX_BYTES:
        yield FieldProblem(_AT, f"it has {size} bytes; the maximum is {MAX_BYTES}")
    if not any(said.get(rule) for rule in _RULES):
        yield FieldProblem(_AT, f"at least one of {', '.join(_RULES)} is required")
    scopes: list[str] = said.get("allowedScopes") or []
    mapped: dict[str, str] = said.get("advertisedScopeMapping") or {}
    for scope in mapped:
        if scope not in scopes:
            yield FieldProblem(f"{_AT}.advertisedScopeMapping", f"{scope} is not one of allowedScopes")
    for number, rule in enumerate(said.get("customClaims") or (), 1):
        yield from _claim_problems(f"{_AT}.customClaims.{number}.member", rule)
    for number, certificate in enumerate(said.get("certificateConfigurations") or (), 1):
        uri: str | None = (certificate.get("s3") or {}).get("uri")
        if uri is not None and not all(uri.removeprefix("s3://").partition("/")[::2]):
            yield FieldProblem(
                f"{_AT}.certificateConfigurations.{number}.member.s3.uri", "must name a bucket and a key in it"
            )
    yield from _endpoint_problems(said, reach)


def _url_problems(said: Json, reach: Reach) -> Iterator[FieldProblem]:
    try:
        reach.origin(said["discoveryUrl"], has_place=_resource(said.get("privateEndpoint") or {}) is not None)
    except Refused as refused:
        yield FieldProblem(f"{_AT}.discoveryUrl", f"the URL can't be used: {refused}")


def _claim_problems(path: str, rule: Json) -> Iterator[FieldProblem]:
    if rule["inboundTokenClaimName"] == "scp":
        yield FieldProblem(
            f"{path}.inboundTokenClaimName",
            NOT_SCP,
        )
    kind: str = rule["inboundTokenClaimValueType"]
    match = rule["authorizingClaimMatchValue"]
    operator: str = match["claimMatchOperator"]
    allowed = ("EQUALS",) if kind == "STRING" else ("CONTAINS", "CONTAINS_ANY")
    if operator not in allowed:
        yield FieldProblem(
            f"{path}.authorizingClaimMatchValue.claimMatchOperator",
            f"a claim of type {kind} is matched by {' or '.join(allowed)}",
        )
    wanted = "matchValueStringList" if operator == "CONTAINS_ANY" else "matchValueString"
    if not match["claimMatchValue"].get(wanted):
        yield FieldProblem(f"{path}.authorizingClaimMatchValue.claimMatchValue", f"{operator} takes a {wanted}")


def _endpoint_problems(said: Json, reach: Reach) -> Iterator[FieldProblem]:
    named: list[tuple[str, Json]] = [("privateEndpoint", said.get("privateEndpoint") or {})]
    domains: set[str] = set()
    for number, override in enumerate(said.get("privateEndpointOverrides") or (), 1):
        path = f"privateEndpointOverrides.{number}.member"
        named.append((f"{path}.privateEndpoint", override["privateEndpoint"]))
        domain: str = override["domain"].lower()
        if not _HOST.fullmatch(domain):
            yield FieldProblem(f"{_AT}.{path}.domain", "must be the name of a host")
        elif domain in domains:
            yield FieldProblem(f"{_AT}.{path}.domain", f"{domain} is there twice")
        domains.add(domain)
    for path, endpoint in named:
        resource = _resource(endpoint)
        if resource is not None and _place(resource, reach) is None:
            yield FieldProblem(
                f"{_AT}.{path}.selfManagedLatticeResource.resourceConfigurationIdentifier",
                f"{resource} is not one of those that the server's setting jwt.private_endpoints has a place for",
            )
