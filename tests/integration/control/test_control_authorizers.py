"""customJWTAuthorizer: what it may say, what is refused by name, and what the gateway is told of it."""

from __future__ import annotations

import ipaddress
from typing import Any

import jwt_cases
import pytest

from freehold.auth.jwt_claims import ClaimRule
from freehold.control import authorizers, configuration, parity
from freehold.control.reach import NOWHERE, PUBLIC_INTERNET, Reach
from freehold.domain.errors import ValidationFailed

JWT = "authorizerConfiguration.customJWTAuthorizer"
URL = "https://id.example/realms/one/.well-known/openid-configuration"
RESOURCE = "rcfg-0123456789abcdef0"
LATTICE = {"selfManagedLatticeResource": {"resourceConfigurationIdentifier": RESOURCE}}
OWN = Reach((ipaddress.ip_network("10.0.0.0/8"),), allow_http=True, private_endpoints={RESOURCE: ("10.0.0.5", 8443)})


def params(**said: Any) -> dict[str, Any]:
    code = {"code": {"s3": {"bucket": "code", "prefix": "a.zip"}}, "runtime": "PYTHON_3_11", "entryPoint": ["main.py"]}
    authorizer = {"discoveryUrl": URL, "allowedClients": ["app"], **said}
    return {
        "agentRuntimeName": "agent",
        "agentRuntimeArtifact": {"codeConfiguration": code},
        "roleArn": "arn:aws:iam::111122223333:role/r",
        "authorizerConfiguration": {
            "customJWTAuthorizer": {name: value for name, value in authorizer.items() if value is not None}
        },
    }


def refusal(reach: Reach = PUBLIC_INTERNET, **said: Any) -> ValidationFailed:
    with pytest.raises(ValidationFailed) as refused:
        configuration.normalise(params(**said), reach)
    return refused.value


def names(refused: ValidationFailed) -> list[str]:
    return [problem.name.removeprefix(f"{JWT}.") for problem in refused.fields]


def read(reach: Reach = PUBLIC_INTERNET, runtime_id: str = "agent-0123456789", **said: Any) -> Any:
    normal = configuration.normalise(params(**said), reach)
    return authorizers.authorizer_of(normal, reach, account="111122223333", runtime_id=runtime_id)


@pytest.mark.parametrize("rules", jwt_cases.AUTHORIZERS.values(), ids=jwt_cases.AUTHORIZERS)
def test_every_rule_may_be_the_only_one(rules: dict[str, Any]):
    assert read(**({"allowedClients": None} | rules)).digest


def test_without_any_rule_an_authorizer_is_refused():
    refused = refusal(allowedClients=None)
    assert [problem.name for problem in refused.fields] == [JWT]
    assert "at least one of allowedAudience, allowedClients, allowedScopes, customClaims is required" in refused.message


def test_a_custom_claim_scp_is_refused_in_the_services_words():
    refused = refusal(customClaims=[jwt_cases.rule("scp", "STRING_ARRAY", "CONTAINS", "x")])
    assert refused.message == ("Custom claim name can't be 'scp'. Please configure claims in the allowed_scopes field")
    assert names(refused) == ["customClaims.1.member.inboundTokenClaimName"]


@pytest.mark.parametrize(
    ("kind", "operator", "value", "problem"),
    [
        ("STRING", "CONTAINS", "x", "claimMatchOperator"),
        ("STRING", "CONTAINS_ANY", ["x"], "claimMatchOperator"),
        ("STRING_ARRAY", "EQUALS", "x", "claimMatchOperator"),
        ("STRING", "EQUALS", ["x"], "claimMatchValue"),
        ("STRING_ARRAY", "CONTAINS", ["x"], "claimMatchValue"),
        ("STRING_ARRAY", "CONTAINS_ANY", "x", "claimMatchValue"),
    ],
)
def test_an_operator_that_does_not_fit_type_or_value_is_refused(kind: str, operator: str, value: Any, problem: str):
    refused = refusal(customClaims=[jwt_cases.rule("a", kind, operator, value)])
    assert names(refused) == [f"customClaims.1.member.authorizingClaimMatchValue.{problem}"]


def test_custom_claims_are_read_with_their_types():
    found = read(
        customClaims=[
            jwt_cases.rule("department", "STRING", "EQUALS", "research"),
            jwt_cases.rule("groups", "STRING_ARRAY", "CONTAINS", "agents"),
            jwt_cases.rule("roles", "STRING_ARRAY", "CONTAINS_ANY", ["a", "b"]),
        ]
    )
    assert found.claims == (
        ClaimRule("department", False, ("research",)),
        ClaimRule("groups", True, ("agents",)),
        ClaimRule("roles", True, ("a", "b")),
    )


def test_a_mapping_of_a_scope_that_is_not_allowed_is_refused():
    assert names(refusal(allowedScopes=["a"], advertisedScopeMapping={"b": "c"})) == ["advertisedScopeMapping"]
    assert read(allowedScopes=["a", "b"], advertisedScopeMapping={"b": "c"}).advertised_scopes == ("a", "c")


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example/.well-known/openid-configuration",
        "https://10.0.0.1/.well-known/openid-configuration",
        "https://localhost:8443/.well-known/openid-configuration",
        "https://[::1]/.well-known/openid-configuration",
        "https://user:word@id.example/.well-known/openid-configuration",
        "file:///.well-known/openid-configuration",
        "x/.well-known/openid-configuration",
    ],
)
def test_a_discovery_url_that_would_never_be_followed_is_refused_at_once(url: str):
    assert names(refusal(discoveryUrl=url)) == ["discoveryUrl"]


def test_an_authorizer_has_a_size():
    refused = refusal(allowedClients=["x" * 100 + str(number) for number in range(1000)])
    assert [problem.name for problem in refused.fields] == [JWT]
    assert "the maximum is 65536" in refused.message


def test_what_a_setting_allows_is_taken():
    assert read(OWN, discoveryUrl="http://10.0.0.1/.well-known/openid-configuration")
    assert read(OWN, discoveryUrl="https://10.0.0.1/.well-known/oauth-authorization-server/tenant")


def test_a_private_endpoint_without_a_place_here_is_refused_by_name():
    identifier = "selfManagedLatticeResource.resourceConfigurationIdentifier"
    assert names(refusal(privateEndpoint=LATTICE)) == [f"privateEndpoint.{identifier}"]
    override = {"domain": "keys.example", "privateEndpoint": LATTICE}
    assert names(refusal(privateEndpointOverrides=[override])) == [
        f"privateEndpointOverrides.1.member.privateEndpoint.{identifier}"
    ]
    assert names(refusal(OWN, privateEndpointOverrides=[override, {**override, "domain": "KEYS.example"}])) == [
        "privateEndpointOverrides.2.member.domain"
    ]
    assert names(refusal(OWN, privateEndpointOverrides=[{**override, "domain": "a b"}])) == [
        "privateEndpointOverrides.1.member.domain"
    ]


def test_a_private_endpoint_that_has_lost_its_place_leads_nowhere_and_not_to_the_internet():
    said = {"discoveryUrl": URL, "privateEndpoint": LATTICE}
    assert authorizers.key_source_of(said, OWN).places == (("id.example", ("10.0.0.5", 8443)),)
    assert authorizers.key_source_of(said, PUBLIC_INTERNET).places == (("id.example", NOWHERE),)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ("privateEndpoint.managedVpcResource", {"privateEndpoint": {"managedVpcResource": {"vpcIdentifier": "vpc-1"}}}),
        (
            "certificateConfigurations.1.member.secretsManager",
            {"certificateConfigurations": [{"secretsManager": {"secretArn": "arn"}}]},
        ),
        (
            "certificateConfigurations.1.member.s3.bucketOwnerAccountId",
            {"certificateConfigurations": [{"s3": {"uri": "s3://b/k", "bucketOwnerAccountId": "1"}}]},
        ),
        ("allowedWorkloadConfiguration", {"allowedWorkloadConfiguration": {"workloadIdentities": ["abc"]}}),
    ],
)
def test_what_can_not_act_here_is_refused_by_name(member: str, said: dict[str, Any]):
    refused = refusal(OWN, **said)
    assert names(refused) == [member]
    assert "Freehold does not support" in refused.message


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "s3:///key"])
def test_a_certificate_is_named_by_bucket_and_key(uri: str):
    assert names(refusal(certificateConfigurations=[{"s3": {"uri": uri}}])) == [
        "certificateConfigurations.1.member.s3.uri"
    ]


def test_authorizers_of_two_runtimes_are_never_the_same_but_may_share_keys():
    one, other = read(), read(runtime_id="other-0123456789")
    assert one.digest != other.digest
    assert one.key_set == other.key_set
    assert read(allowedClients=["other"]).digest != one.digest


def test_a_token_reaches_the_agent_of_a_runtime_with_tokens_only():
    allow = {"requestHeaderConfiguration": {"requestHeaderAllowlist": ["Authorization", "X-One"]}}
    with_tokens = configuration.normalise({**params(), **allow})
    assert configuration.forwarded_headers(with_tokens) == ["authorization", "x-one"]
    signed = {name: value for name, value in params().items() if name != "authorizerConfiguration"}
    assert configuration.forwarded_headers(configuration.normalise({**signed, **allow})) == ["x-one"]


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        ({}, []),
        ({"discoveryUrl": "http://10.0.0.1/.well-known/openid-configuration"}, ["IDENTITY_PROVIDER"]),
        ({"certificateConfigurations": [{"s3": {"uri": "s3://b/ca.pem"}}]}, ["PRIVATE_AUTHORITY"]),
        ({"certificateConfigurations": [{"s3": {"uri": "s3://b/ca.pem"}}], "privateEndpoint": LATTICE}, []),
    ],
)
def test_a_warning_says_what_aws_would_not_take(said: dict[str, Any], codes: list[str]):
    normal = configuration.normalise(params(**said), OWN)
    told = parity.warnings(normal, parity.Here("111122223333", "aarch64"), bucket_is_local=False)
    of_authorizer = [warning for warning in told if (warning.member or "").startswith(JWT)]
    assert [warning.code for warning in of_authorizer] == codes
