"""Versions, endpoints, tags, policies and workload identities as boto3 sees them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_calls import create, deployed, gone, refused, rested, said, token, until, update
from control_parts import ACCOUNT, REGION, put_zip
from control_server import ControlServer

ARN = f"arn:aws:bedrock-agentcore:{REGION}:{ACCOUNT}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    made = ControlServer(tmp_path)
    put_zip(made.buckets)
    with made.run():
        yield made


def endpoint(client: Any, runtime_id: str, name: str = "prod") -> dict[str, Any]:
    return client.get_agent_runtime_endpoint(agentRuntimeId=runtime_id, endpointName=name)


def versions(client: Any, runtime_id: str, **more: Any) -> list[str]:
    listed = client.list_agent_runtime_versions(agentRuntimeId=runtime_id, **more)["agentRuntimes"]
    return [line["agentRuntimeVersion"] for line in listed]


def endpoint_gone(client: Any, runtime_id: str, name: str = "prod") -> None:
    until(
        lambda: (
            name
            not in [
                e["name"] for e in client.list_agent_runtime_endpoints(agentRuntimeId=runtime_id)["runtimeEndpoints"]
            ]
        )
    )


# -- versions -----------------------------------------------------------------------------------------------------


def test_versions_are_listed_oldest_first_and_paged(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client, description="first")
    for _ in range(2):
        update(client, runtime_id)
        rested(client, runtime_id)
    page = client.list_agent_runtime_versions(agentRuntimeId=runtime_id, maxResults=2)
    assert [line["agentRuntimeVersion"] for line in page["agentRuntimes"]] == ["1", "2"]
    first = page["agentRuntimes"][0]
    assert (first["agentRuntimeName"], first["description"], first["status"]) == ("agent", "first", "READY")
    assert first["agentRuntimeArn"] == f"{ARN}:runtime/{runtime_id}"
    rest = client.list_agent_runtime_versions(agentRuntimeId=runtime_id, nextToken=page["nextToken"])
    assert [line["agentRuntimeVersion"] for line in rest["agentRuntimes"]] == ["3"]
    assert "nextToken" not in rest
    client.delete_agent_runtime(agentRuntimeId=runtime_id, agentRuntimeVersion="2")
    assert versions(client, runtime_id) == ["1", "3"]


def test_versions_of_no_runtime_are_not_found(server: ControlServer):
    client = server.client()
    missing = refused(client.list_agent_runtime_versions, agentRuntimeId="agent-0123456789")
    assert said(missing) == ("ResourceNotFoundException", 404)


def test_a_token_of_another_runtimes_listing_is_refused(server: ControlServer):
    client = server.client()
    one, other = deployed(client), deployed(client, "other")
    update(client, one)
    rested(client, one)
    following = client.list_agent_runtime_versions(agentRuntimeId=one, maxResults=1)["nextToken"]
    for call in (client.list_agent_runtime_versions, client.list_agent_runtime_endpoints):
        error = refused(call, agentRuntimeId=other, nextToken=following)
        assert said(error) == ("ValidationException", 400)
        assert error.response["fieldList"][0]["name"] == "nextToken"


# -- endpoints ----------------------------------------------------------------------------------------------------


def test_every_runtime_has_an_endpoint_that_follows_the_latest_version(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    found = endpoint(client, runtime_id, "DEFAULT")
    assert (found["liveVersion"], found["targetVersion"], found["status"]) == ("1", "1", "READY")
    assert found["agentRuntimeEndpointArn"] == f"{ARN}:runtime/{runtime_id}/runtime-endpoint/DEFAULT"
    assert re.fullmatch(r"DEFAULT-[a-zA-Z0-9]{10}", found["id"])
    assert "description" not in found
    update(client, runtime_id)
    rested(client, runtime_id)
    after = endpoint(client, runtime_id, "DEFAULT")
    assert (after["liveVersion"], after["targetVersion"], after["id"]) == ("2", "2", found["id"])


def test_default_can_be_neither_updated_nor_deleted_nor_made(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    which = {"agentRuntimeId": runtime_id, "endpointName": "DEFAULT"}
    deletion = refused(client.delete_agent_runtime_endpoint, **which)
    assert said(deletion) == ("ConflictException", 409)
    assert deletion.response["Error"]["Message"] == "Default endpoints are removed when you delete the agent"
    assert said(refused(client.update_agent_runtime_endpoint, **which)) == ("ConflictException", 409)
    made = refused(client.create_agent_runtime_endpoint, agentRuntimeId=runtime_id, name="DEFAULT")
    assert said(made) == ("ConflictException", 409)


def test_a_named_endpoint_keeps_its_version_until_it_is_moved(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    made = client.create_agent_runtime_endpoint(
        agentRuntimeId=runtime_id, name="prod", description="for customers", tags={"team": "blue"}
    )
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert (made["status"], made["targetVersion"], made["endpointName"]) == ("CREATING", "1", "prod")
    assert made["agentRuntimeId"] == runtime_id
    found = endpoint(client, runtime_id)
    assert (found["status"], found["liveVersion"], found["description"]) == ("READY", "1", "for customers")
    assert found["createdAt"] == made["createdAt"]
    arn = made["agentRuntimeEndpointArn"]
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == {"team": "blue"}

    update(client, runtime_id)
    rested(client, runtime_id)
    assert endpoint(client, runtime_id)["liveVersion"] == "1", "named endpoints do not follow"

    which = {"agentRuntimeId": runtime_id, "endpointName": "prod"}
    moved = client.update_agent_runtime_endpoint(**which, agentRuntimeVersion="2")
    assert moved["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert (moved["status"], moved["liveVersion"], moved["targetVersion"]) == ("UPDATING", "1", "2")
    found = endpoint(client, runtime_id)
    assert (found["status"], found["liveVersion"], found["description"]) == ("READY", "2", "for customers")
    assert found["lastUpdatedAt"] > found["createdAt"]
    client.update_agent_runtime_endpoint(**which, description="for all")
    found = endpoint(client, runtime_id)
    assert (found["liveVersion"], found["description"]) == ("2", "for all")


def test_a_version_that_an_endpoint_serves_is_not_deleted(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    client.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name="prod", agentRuntimeVersion="1")
    update(client, runtime_id)
    rested(client, runtime_id)
    blocked = refused(client.delete_agent_runtime, agentRuntimeId=runtime_id, agentRuntimeVersion="1")
    assert said(blocked) == ("ConflictException", 409)
    assert "prod" not in blocked.response["Error"]["Message"], "an endpoint's name is sensitive"


def test_an_endpoint_of_a_version_under_way_serves_it_once_it_is_ready(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    client.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name="old")
    gate = server.preparer.gate = asyncio.Event()
    update(client, runtime_id)
    client.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name="new", agentRuntimeVersion="2")
    client.update_agent_runtime_endpoint(agentRuntimeId=runtime_id, endpointName="old", agentRuntimeVersion="2")
    new, old = endpoint(client, runtime_id, "new"), endpoint(client, runtime_id, "old")
    assert (new["status"], new["targetVersion"], "liveVersion" in new) == ("CREATING", "2", False)
    assert (old["status"], old["targetVersion"], old["liveVersion"]) == ("UPDATING", "2", "1")
    for call in (client.update_agent_runtime_endpoint, client.delete_agent_runtime_endpoint):
        assert said(refused(call, agentRuntimeId=runtime_id, endpointName="old")) == ("ConflictException", 409)

    async def go_on() -> None:
        gate.set()

    server.in_loop(go_on)
    rested(client, runtime_id)
    for name in ("new", "old"):
        found = endpoint(client, runtime_id, name)
        assert (found["status"], found["liveVersion"]) == ("READY", "2")


def test_an_endpoint_of_a_version_that_fails_says_why_and_can_be_moved_back(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    client.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name="prod")
    gate = server.preparer.gate = asyncio.Event()
    (server.buckets / "code/broken.zip").write_bytes(b"no zip")
    update(client, runtime_id, agentRuntimeArtifact=_artifact("broken.zip"))
    which = {"agentRuntimeId": runtime_id, "endpointName": "prod"}
    client.update_agent_runtime_endpoint(**which, agentRuntimeVersion="2")

    async def go_on() -> None:
        gate.set()

    server.in_loop(go_on)
    assert rested(client, runtime_id)["status"] == "UPDATE_FAILED"
    found = endpoint(client, runtime_id)
    assert (found["status"], found["liveVersion"], found["targetVersion"]) == ("UPDATE_FAILED", "1", "2")
    assert "not a zip" in found["failureReason"]
    again = refused(client.update_agent_runtime_endpoint, **which, agentRuntimeVersion="2")
    assert said(again) == ("ConflictException", 409)
    client.update_agent_runtime_endpoint(**which, agentRuntimeVersion="1")
    found = endpoint(client, runtime_id)
    assert (found["status"], found["liveVersion"], found["targetVersion"]) == ("READY", "1", "1")
    assert "failureReason" not in found


def test_deleting_an_endpoint_ends_its_sessions_and_keeps_its_name_until_then(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    arn = client.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name="prod")["agentRuntimeEndpointArn"]
    client.tag_resource(resourceArn=arn, tags={"a": "b"})
    server.warden.gate = gate = asyncio.Event()
    bye = client.delete_agent_runtime_endpoint(agentRuntimeId=runtime_id, endpointName="prod")
    assert bye["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert (bye["status"], bye["endpointName"], bye["agentRuntimeId"]) == ("DELETING", "prod", runtime_id)
    assert endpoint(client, runtime_id)["status"] == "DELETING"
    taken = refused(client.create_agent_runtime_endpoint, agentRuntimeId=runtime_id, name="prod")
    assert said(taken) == ("ConflictException", 409)
    twice = refused(client.delete_agent_runtime_endpoint, agentRuntimeId=runtime_id, endpointName="prod")
    assert said(twice) == ("ConflictException", 409)
    blocked = refused(client.delete_agent_runtime, agentRuntimeId=runtime_id)
    assert blocked.response["Error"]["Message"] == "This agent has endpoints that must be deleted first"

    async def go_on() -> None:
        gate.set()

    server.in_loop(go_on)
    endpoint_gone(client, runtime_id)
    assert server.warden.stopped_endpoints == [(ACCOUNT, runtime_id, "prod")]
    missing = refused(client.get_agent_runtime_endpoint, agentRuntimeId=runtime_id, endpointName="prod")
    assert said(missing) == ("ResourceNotFoundException", 404)
    client.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name="prod")
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == {}, "tags vanish with the resource"


def test_a_runtime_with_endpoints_is_deleted_after_them(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    client.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name="prod")
    blocked = refused(client.delete_agent_runtime, agentRuntimeId=runtime_id)
    assert said(blocked) == ("ConflictException", 409)
    assert blocked.response["Error"]["Message"] == "This agent has endpoints that must be deleted first"
    client.delete_agent_runtime_endpoint(agentRuntimeId=runtime_id, endpointName="prod")
    endpoint_gone(client, runtime_id)
    client.delete_agent_runtime(agentRuntimeId=runtime_id)
    gone(client, runtime_id)


def test_endpoints_are_listed_default_first_and_paged(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    names = ["DEFAULT", "zeta", "alpha", "mid"]
    for name in names[1:]:
        client.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name=name)
    pages = list(
        client.get_paginator("list_agent_runtime_endpoints").paginate(
            agentRuntimeId=runtime_id, PaginationConfig={"PageSize": 3}
        )
    )
    assert [[line["name"] for line in page["runtimeEndpoints"]] for page in pages] == [names[:3], names[3:]]


def test_no_more_endpoints_than_the_quota(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    for number in range(10):
        client.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name=f"e{number}")
    full = refused(client.create_agent_runtime_endpoint, agentRuntimeId=runtime_id, name="more")
    assert said(full) == ("ServiceQuotaExceededException", 402)


def test_a_repeated_call_on_an_endpoint_gets_its_first_answer(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    which = {"agentRuntimeId": runtime_id, "endpointName": "prod"}
    for call, arguments, changed in (
        (client.create_agent_runtime_endpoint, {"agentRuntimeId": runtime_id, "name": "prod"}, {"name": "other"}),
        (client.update_agent_runtime_endpoint, which, {"description": "x"}),
        (client.delete_agent_runtime_endpoint, which, {"endpointName": "other"}),
    ):
        once = token()
        first = call(**arguments, clientToken=once)
        again = call(**arguments, clientToken=once)
        del first["ResponseMetadata"], again["ResponseMetadata"]
        assert again == first
        other = refused(call, **{**arguments, **changed}, clientToken=once)
        assert other.response["reason"] == "IdempotentParameterMismatchException"
    endpoint_gone(client, runtime_id)
    call(**arguments, clientToken=once)


def test_an_unknown_version_or_runtime_has_no_endpoint(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    for arguments in (
        {"agentRuntimeId": runtime_id, "name": "prod", "agentRuntimeVersion": "2"},
        {"agentRuntimeId": "agent-0123456789", "name": "prod"},
    ):
        assert said(refused(client.create_agent_runtime_endpoint, **arguments)) == ("ResourceNotFoundException", 404)
    listing = refused(client.list_agent_runtime_endpoints, agentRuntimeId="agent-0123456789")
    assert said(listing) == ("ResourceNotFoundException", 404)


# -- tags ---------------------------------------------------------------------------------------------------------


def test_tags_are_merged_removed_and_listed(server: ControlServer):
    client = server.client()
    arn = create(client, tags={"a": "1"})["agentRuntimeArn"]
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == {"a": "1"}
    done = client.tag_resource(resourceArn=arn, tags={"a": "2", "b": ""})
    assert done["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == {"a": "2", "b": ""}
    done = client.untag_resource(resourceArn=arn, tagKeys=["a", "never"])
    assert done["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == {"b": ""}


def test_a_resource_has_fifty_tags_at_the_most(server: ControlServer):
    client = server.client()
    arn = create(client, tags={f"k{n}": "v" for n in range(50)})["agentRuntimeArn"]
    client.tag_resource(resourceArn=arn, tags={"k1": "replaced"})
    full = refused(client.tag_resource, resourceArn=arn, tags={"another": "v"})
    assert said(full) == ("ServiceQuotaExceededException", 402)
    assert len(client.list_tags_for_resource(resourceArn=arn)["tags"]) == 50


@pytest.mark.parametrize(
    "arn",
    [
        f"{ARN}:runtime/agent-0123456789",
        f"arn:aws:bedrock-agentcore:{REGION}:444455556666:runtime/agent-0123456789",
        f"arn:aws:bedrock-agentcore:us-east-1:{ACCOUNT}:runtime/agent-0123456789",
        f"{ARN}:gateway/g-0123456789",
        f"{ARN}:workload-identity-directory/default/workload-identity/nobody",
    ],
)
def test_what_is_not_the_callers_or_not_there_is_not_found(server: ControlServer, arn: str):
    client = server.client()
    deployed(client)
    for call, arguments in (
        (client.list_tags_for_resource, {}),
        (client.tag_resource, {"tags": {"a": "b"}}),
        (client.untag_resource, {"tagKeys": ["a"]}),
    ):
        assert said(refused(call, resourceArn=arn, **arguments)) == ("ResourceNotFoundException", 404)


# -- policies -----------------------------------------------------------------------------------------------------


def policy(**statement: Any) -> str:
    whole = {
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam::444455556666:root"},
        "Action": "bedrock-agentcore:InvokeAgentRuntime",
        "Resource": "*",
        **statement,
    }
    kept = {name: value for name, value in whole.items() if value is not None}
    return json.dumps({"Version": "2012-10-17", "Statement": [kept]})


def test_a_policy_is_kept_as_it_was_given_replaced_and_removed(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    made = client.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name="prod")
    for arn in (made["agentRuntimeArn"], made["agentRuntimeEndpointArn"]):
        assert "policy" not in client.get_resource_policy(resourceArn=arn)
        put = client.put_resource_policy(resourceArn=arn, policy=policy())
        assert put["ResponseMetadata"]["HTTPStatusCode"] == 201
        assert put["policy"] == policy()
        another = policy(Effect="Deny", Principal="*", Condition={"StringNotEquals": {"aws:SourceVpc": ["vpc-1"]}})
        client.put_resource_policy(resourceArn=arn, policy=another)
        assert client.get_resource_policy(resourceArn=arn)["policy"] == another
        gone = client.delete_resource_policy(resourceArn=arn)
        assert gone["ResponseMetadata"]["HTTPStatusCode"] == 204
        assert "policy" not in client.get_resource_policy(resourceArn=arn)
        client.delete_resource_policy(resourceArn=arn)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{", "policy"),
        ("[]", "policy"),
        ("[" * 20000, "policy"),
        ('{"Version": "2012-10-17", "Version": "2012-10-17"}', "policy"),
        ('{"Version": "2099-01-01", "Statement": []}', "policy.Version"),
        ('{"Statement": []}', "policy.Statement"),
        (policy(Effect="Perhaps"), "policy.Statement.1.Effect"),
        (policy(Principal=None), "policy.Statement.1"),
        (policy(NotAction="bedrock-agentcore:*"), "policy.Statement.1"),
        (policy(Action="s3:GetObject"), "policy.Statement.1.Action"),
        (policy(Action=[]), "policy.Statement.1.Action"),
        (policy(Resource="arn:aws:s3:::bucket"), "policy.Statement.1.Resource"),
        (policy(Principal={"AWS": "somebody"}), "policy.Statement.1.Principal.AWS"),
        (policy(Principal={"Person": "x"}), "policy.Statement.1.Principal"),
        (policy(Condition={"StringKind": {"aws:x": "y"}}), "policy.Statement.1.Condition"),
        (policy(Condition={"StringLike": {"aws:x": {}}}), "policy.Statement.1.Condition.StringLike"),
        (policy(Colour="mauve"), "policy.Statement.1"),
        (policy(Sid="not a sid"), "policy.Statement.1.Sid"),
    ],
)
def test_a_policy_that_is_none_is_refused_without_repeating_it(server: ControlServer, text: str, where: str):
    client = server.client()
    arn = create(client)["agentRuntimeArn"]
    error = refused(client.put_resource_policy, resourceArn=arn, policy=text)
    assert said(error) == ("ValidationException", 400)
    assert where in [field["name"] for field in error.response["fieldList"]]
    assert "mauve" not in str(error)
    assert "policy" not in client.get_resource_policy(resourceArn=arn)


def test_a_workload_identity_has_no_policy(server: ControlServer):
    client = server.client()
    arn = client.create_workload_identity(name="robot")["workloadIdentityArn"]
    error = refused(client.put_resource_policy, resourceArn=arn, policy=policy())
    assert said(error) == ("ValidationException", 400)


# -- workload identities ------------------------------------------------------------------------------------------


def test_a_workload_identity_is_made_shown_changed_and_deleted(server: ControlServer):
    client = server.client()
    urls = ["https://example.com/back"]
    made = client.create_workload_identity(
        name="robot-1.x", allowedResourceOauth2ReturnUrls=urls, tags={"team": "blue"}
    )
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    arn = f"{ARN}:workload-identity-directory/default/workload-identity/robot-1.x"
    assert (made["name"], made["workloadIdentityArn"]) == ("robot-1.x", arn)
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == {"team": "blue"}
    assert said(refused(client.create_workload_identity, name="robot-1.x")) == ("ConflictException", 409)
    got = client.get_workload_identity(name="robot-1.x")
    assert got["allowedResourceOauth2ReturnUrls"] == urls
    assert got["createdTime"] == got["lastUpdatedTime"]
    changed = client.update_workload_identity(name="robot-1.x")
    assert "allowedResourceOauth2ReturnUrls" not in changed
    assert changed["lastUpdatedTime"] > changed["createdTime"]
    bye = client.delete_workload_identity(name="robot-1.x")
    assert bye["ResponseMetadata"]["HTTPStatusCode"] == 204
    for call in (client.get_workload_identity, client.update_workload_identity, client.delete_workload_identity):
        assert said(refused(call, name="robot-1.x")) == ("ResourceNotFoundException", 404)


def test_a_runtimes_identity_goes_with_it_and_not_before(server: ControlServer):
    client = server.client()
    runtime_id = deployed(client)
    assert client.get_workload_identity(name=runtime_id)["name"] == runtime_id
    client.update_workload_identity(name=runtime_id, allowedResourceOauth2ReturnUrls=["https://example.com/back"])
    error = refused(client.delete_workload_identity, name=runtime_id)
    assert said(error) == ("ValidationException", 400)
    assert error.response["reason"] == "ResourceConflict"
    client.delete_agent_runtime(agentRuntimeId=runtime_id)
    gone(client, runtime_id)
    assert said(refused(client.get_workload_identity, name=runtime_id)) == ("ResourceNotFoundException", 404)


def test_workload_identities_are_listed_by_name_and_paged(server: ControlServer):
    client = server.client()
    for number in (3, 1, 2):
        client.create_workload_identity(name=f"robot-{number}")
    pages = list(client.get_paginator("list_workload_identities").paginate(PaginationConfig={"PageSize": 2}))
    assert [[line["name"] for line in page["workloadIdentities"]] for page in pages] == [
        ["robot-1", "robot-2"],
        ["robot-3"],
    ]


def _artifact(key: str) -> dict[str, Any]:
    code = {"code": {"s3": {"bucket": "code", "prefix": key}}, "runtime": "PYTHON_3_11", "entryPoint": ["main.py"]}
    return {"codeConfiguration": code}
