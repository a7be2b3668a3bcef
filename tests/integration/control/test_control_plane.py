"""The control plane as boto3 sees it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator, MutableMapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
from control_parts import ACCOUNT, HERE, REGION, put_zip
from control_server import ControlServer

from freehold import ipc
from freehold.auth.keys import AccessKey, mint_access_key
from freehold.control import configuration, protocol
from freehold.store.base import AccessKeyRow, RuntimeKey, Scope

ROLE = "arn:aws:iam::111122223333:role/agent"
ClientError = botocore.exceptions.ClientError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    made = ControlServer(tmp_path)
    put_zip(made.buckets)
    with made.run():
        yield made


def artifact(key: str = "agent.zip", bucket: str = "code") -> dict[str, Any]:
    s3 = {"bucket": bucket, "prefix": key}
    return {"codeConfiguration": {"code": {"s3": s3}, "runtime": "PYTHON_3_11", "entryPoint": ["main.py"]}}


def create(client: Any, name: str = "agent", **more: Any) -> dict[str, Any]:
    arguments = {"agentRuntimeName": name, "agentRuntimeArtifact": artifact(), "roleArn": ROLE, **more}
    return client.create_agent_runtime(**arguments)


def update(client: Any, runtime_id: str, **more: Any) -> dict[str, Any]:
    arguments = {"agentRuntimeArtifact": artifact(), "roleArn": ROLE, **more}
    return client.update_agent_runtime(agentRuntimeId=runtime_id, **arguments)


def rested(client: Any, runtime_id: str) -> dict[str, Any]:
    """Poll as users do, until the runtime is at rest."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        got = client.get_agent_runtime(agentRuntimeId=runtime_id)
        if not got["status"].endswith("ING"):
            return got
    raise AssertionError("the runtime does not come to rest")


def gone(client: Any, runtime_id: str) -> None:
    deadline = time.monotonic() + 20
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        while time.monotonic() < deadline:
            client.get_agent_runtime(agentRuntimeId=runtime_id)


def refused(call: Any, *arguments: Any, **more: Any) -> ClientError:
    with pytest.raises(ClientError) as refusal:
        call(*arguments, **more)
    answer = refusal.value.response
    assert answer["ResponseMetadata"]["RequestId"]
    return refusal.value


def said(error: ClientError) -> tuple[str, int]:
    return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]


# -- the main path ------------------------------------------------------------------------------------------------


def test_a_runtime_is_created_becomes_ready_is_updated_and_deleted(server: ControlServer):
    client = server.client()
    made = create(client, description="adds numbers", environmentVariables={"K": "v"}, tags={"team": "blue"})
    runtime_id = made["agentRuntimeId"]
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert made["status"] == "CREATING"
    assert made["agentRuntimeVersion"] == "1"
    assert made["agentRuntimeArn"] == f"arn:aws:bedrock-agentcore:{REGION}:{ACCOUNT}:runtime/{runtime_id}"
    name, _, suffix = runtime_id.rpartition("-")
    assert name == "agent"
    assert len(suffix) == 10
    identity = made["workloadIdentityDetails"]["workloadIdentityArn"]
    assert identity.endswith(f":workload-identity-directory/default/workload-identity/{runtime_id}")

    got = rested(client, runtime_id)
    assert got["status"] == "READY"
    assert got["agentRuntimeArtifact"] == artifact()
    assert got["environmentVariables"] == {"K": "v"}
    assert got["description"] == "adds numbers"
    assert got["networkConfiguration"] == {"networkMode": "PUBLIC"}
    assert got["lifecycleConfiguration"] == {"idleRuntimeSessionTimeout": 900, "maxLifetime": 28800}
    assert got["protocolConfiguration"] == {"serverProtocol": "HTTP"}
    assert got["metadataConfiguration"] == {"requireMMDSV2": True}
    assert got["createdAt"] == made["createdAt"]
    assert got["lastUpdatedAt"] >= got["createdAt"]
    assert "failureReason" not in got

    changed = update(client, runtime_id, protocolConfiguration={"serverProtocol": "AGUI"})
    assert changed["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert (changed["status"], changed["agentRuntimeVersion"]) == ("UPDATING", "2")
    assert changed["createdAt"] == made["createdAt"]
    got = rested(client, runtime_id)
    assert (got["status"], got["agentRuntimeVersion"]) == ("READY", "2")
    assert "environmentVariables" not in got, "an update replaces everything"
    assert "description" not in got
    first = client.get_agent_runtime(agentRuntimeId=runtime_id, agentRuntimeVersion="1")
    assert (first["agentRuntimeVersion"], first["environmentVariables"]) == ("1", {"K": "v"})

    bye = client.delete_agent_runtime(agentRuntimeId=runtime_id)
    assert bye["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert (bye["status"], bye["agentRuntimeId"]) == ("DELETING", runtime_id)
    gone(client, runtime_id)
    assert server.warden.stopped == [(ACCOUNT, runtime_id)]
    assert said(refused(client.delete_agent_runtime, agentRuntimeId=runtime_id)) == ("ResourceNotFoundException", 404)


def test_a_version_whose_code_is_prepared_already_is_ready_at_once_and_served(server: ControlServer):
    client = server.client()
    first = create(client)["agentRuntimeId"]
    rested(client, first)
    assert server.preparer.calls == 1
    normal = server.control.app.context.store.get_runtime(RuntimeKey(HERE, first))[1].configuration
    wanted = configuration.artifact_of(normal)
    server.preparer.known[wanted] = asyncio.run(server.preparer.prepare(wanted))
    made = create(client, "second")
    assert made["status"] == "CREATING"
    found = client.get_agent_runtime(agentRuntimeId=made["agentRuntimeId"])
    assert (found["status"], found["agentRuntimeVersion"]) == ("READY", "1")
    changed = update(client, made["agentRuntimeId"], environmentVariables={"K": "other"})
    assert (changed["status"], changed["agentRuntimeVersion"]) == ("UPDATING", "2")
    (endpoint,) = client.list_agent_runtime_endpoints(agentRuntimeId=made["agentRuntimeId"])["runtimeEndpoints"]
    assert (endpoint["status"], endpoint["liveVersion"]) == ("READY", "2")
    assert server.preparer.calls == 2, "nothing more was prepared"
    assert len(server.preparer.released) == 3, "every bundle that was handed out is released"
    key = RuntimeKey(HERE, made["agentRuntimeId"])
    launch = server.control.app.context.store.get_launch(key, 2)
    assert launch is not None
    assert (launch.runtime_name, launch.version, launch.environment) == ("second", 2, {"K": "other"})


def test_a_broken_artifact_fails_later_and_says_why(server: ControlServer):
    client = server.client()
    (server.buckets / "code/broken.zip").write_bytes(b"no zip")
    made = create(client, agentRuntimeArtifact=artifact("broken.zip"))
    got = rested(client, made["agentRuntimeId"])
    assert got["status"] == "CREATE_FAILED"
    assert "not a zip" in got["failureReason"]
    update(client, made["agentRuntimeId"])
    got = rested(client, made["agentRuntimeId"])
    assert got["status"] == "READY"
    assert "failureReason" not in got


def test_a_failed_update_is_told_and_the_version_before_is_still_there(server: ControlServer):
    client = server.client()
    runtime_id = create(client)["agentRuntimeId"]
    rested(client, runtime_id)
    (server.buckets / "code/broken.zip").write_bytes(b"no zip")
    update(client, runtime_id, agentRuntimeArtifact=artifact("broken.zip"))
    got = rested(client, runtime_id)
    assert (got["status"], got["agentRuntimeVersion"]) == ("UPDATE_FAILED", "2")
    assert client.get_agent_runtime(agentRuntimeId=runtime_id, agentRuntimeVersion="1")["status"] == "READY"


def test_one_version_can_be_deleted_unless_it_is_in_use(server: ControlServer):
    client = server.client()
    runtime_id = create(client)["agentRuntimeId"]
    rested(client, runtime_id)
    update(client, runtime_id)
    rested(client, runtime_id)
    in_use = refused(client.delete_agent_runtime, agentRuntimeId=runtime_id, agentRuntimeVersion="2")
    assert said(in_use) == ("ConflictException", 409)
    bye = client.delete_agent_runtime(agentRuntimeId=runtime_id, agentRuntimeVersion="1")
    assert (bye["status"], bye["agentRuntimeVersion"]) == ("DELETING", "1")
    missing = refused(client.get_agent_runtime, agentRuntimeId=runtime_id, agentRuntimeVersion="1")
    assert said(missing) == ("ResourceNotFoundException", 404)
    assert client.get_agent_runtime(agentRuntimeId=runtime_id)["status"] == "READY"
    assert server.warden.stopped == []


# -- refusals -----------------------------------------------------------------------------------------------------


def test_a_taken_name_is_a_conflict(server: ControlServer):
    client = server.client()
    create(client)
    error = refused(create, client)
    assert said(error) == ("ConflictException", 409)
    assert error.response["Error"]["Message"] == "An agent with the specified name already exists"
    assert isinstance(error, client.exceptions.ConflictException)


def test_a_changing_runtime_can_be_neither_updated_nor_deleted(server: ControlServer):
    async def close_gate() -> None:
        server.preparer.gate = asyncio.Event()

    async def open_gate() -> None:
        assert server.preparer.gate is not None
        server.preparer.gate.set()

    server.in_loop(close_gate)
    client = server.client()
    runtime_id = create(client)["agentRuntimeId"]
    assert said(refused(update, client, runtime_id)) == ("ConflictException", 409)
    assert said(refused(client.delete_agent_runtime, agentRuntimeId=runtime_id)) == ("ConflictException", 409)
    server.in_loop(open_gate)
    assert rested(client, runtime_id)["status"] == "READY"


def test_a_missing_object_is_refused_at_once_by_bucket_and_key(server: ControlServer):
    client = server.client()
    error = refused(create, client, agentRuntimeArtifact=artifact("nothing.zip", "elsewhere"))
    assert said(error) == ("ValidationException", 400)
    assert "nothing.zip" in error.response["Error"]["Message"]
    assert "elsewhere" in error.response["Error"]["Message"]
    assert error.response["reason"] == "FieldValidationFailed"
    assert client.list_agent_runtimes()["agentRuntimes"] == []


@pytest.mark.parametrize(
    "member",
    [
        {"networkConfiguration": {"networkMode": "VPC"}},
        {"protocolConfiguration": {"serverProtocol": "MCP", "port": 8443}},
        {"platformVersion": "V2"},
        {"lifecycleConfiguration": {"maxLifetime": 100_000}},
        {"requestHeaderConfiguration": {"requestHeaderAllowlist": ["Cookie"]}},
        {"environmentVariables": {"K": "secret" * 700}},
    ],
)
def test_what_can_not_be_done_is_refused_with_the_members_name(server: ControlServer, member: dict[str, Any]):
    error = refused(create, server.client(), **member)
    assert said(error) == ("ValidationException", 400)
    (problem,) = error.response["fieldList"]
    assert problem["name"].startswith(next(iter(member)))
    assert next(iter(member)) in error.response["Error"]["Message"]
    assert "secret" not in str(error.response)


def test_a_missing_member_is_refused(server: ControlServer):
    error = refused(server.client().create_agent_runtime, agentRuntimeName="agent")
    assert said(error) == ("ValidationException", 400)


def test_an_unknown_runtime_is_not_found(server: ControlServer):
    client = server.client()
    unknown = "agent-0123456789"
    assert said(refused(client.get_agent_runtime, agentRuntimeId=unknown)) == ("ResourceNotFoundException", 404)
    assert said(refused(update, client, unknown)) == ("ResourceNotFoundException", 404)
    assert said(refused(client.delete_agent_runtime, agentRuntimeId=unknown)) == ("ResourceNotFoundException", 404)


def test_quotas_are_told_as_such(tmp_path: Path):
    made = ControlServer(tmp_path, max_runtimes=1, max_versions=1)
    put_zip(made.buckets)
    with made.run():
        client = made.client()
        runtime_id = create(client)["agentRuntimeId"]
        assert said(refused(create, client, "other")) == ("ServiceQuotaExceededException", 402)
        rested(client, runtime_id)
        assert said(refused(update, client, runtime_id)) == ("ServiceQuotaExceededException", 402)


def test_operations_that_freehold_does_not_have_say_so_and_are_not_retried(server: ControlServer):
    client = server.client()
    error = refused(client.list_gateways)
    assert said(error) == ("UnknownOperationException", 400)
    assert "ListGateways" in error.response["Error"]["Message"]


def test_another_accounts_runtimes_are_unknown(server: ControlServer):
    client = server.client()
    runtime_id = create(client)["agentRuntimeId"]
    other = server.client(server.control.keys.issue(Scope("444455556666", REGION)))
    assert other.list_agent_runtimes()["agentRuntimes"] == []
    assert said(refused(other.get_agent_runtime, agentRuntimeId=runtime_id)) == ("ResourceNotFoundException", 404)
    create(other)


# -- who calls ----------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_refused(server: ControlServer):
    error = refused(server.client(mint_access_key(ACCOUNT)).list_agent_runtimes)
    assert said(error) == ("UnrecognizedClientException", 403)
    assert error.response["Error"]["Message"] == "The security token included in the request is invalid."


def test_a_wrong_secret_is_refused(server: ControlServer):
    wrong = AccessKey(server.key.access_key_id, ACCOUNT, "x" * 40)
    error = refused(server.client(wrong).list_agent_runtimes)
    assert said(error) == ("InvalidSignatureException", 403)


def test_a_disabled_key_is_refused(server: ControlServer):
    key = server.control.keys.issue(HERE)
    client = server.client(key)
    client.list_agent_runtimes()
    server.control.keys.disable(key.access_key_id)
    assert said(refused(client.list_agent_runtimes)) == ("UnrecognizedClientException", 403)


@pytest.mark.parametrize(("minutes", "told"), [(6, "Signature expired"), (-6, "Signature not yet current")])
def test_a_clock_that_is_far_off_is_refused(server: ControlServer, minutes: int, told: str):
    server.clock_error = timedelta(minutes=minutes)
    error = refused(server.client().list_agent_runtimes)
    assert said(error) == ("InvalidSignatureException", 403)
    assert error.response["Error"]["Message"].startswith(told)


def test_another_region_is_refused(server: ControlServer):
    error = refused(server.client(region_name="us-east-1").list_agent_runtimes)
    assert said(error) == ("InvalidSignatureException", 403)


def test_a_key_whose_seal_was_broken_is_a_fault_of_the_server_told_without_innards(
    server: ControlServer, logs: list[MutableMapping[str, Any]]
):
    store = server.control.app.context.store
    broken = mint_access_key(ACCOUNT)
    store.add_access_key(AccessKeyRow(broken.access_key_id, HERE, b"\0" * 40, server._now()))
    error = refused(server.client(broken).list_agent_runtimes)
    assert said(error) == ("InternalServerException", 500)
    assert error.response["Error"]["Message"] == "An internal error occurred"
    (entry,) = [entry for entry in logs if entry["event"] == "control.request_failed"]
    assert entry["request_id"] == error.response["ResponseMetadata"]["RequestId"]
    assert entry["exc_info"]


# -- once and only once -------------------------------------------------------------------------------------------


def test_a_repeated_create_gets_the_first_answer(server: ControlServer):
    client = server.client()
    token = str(uuid.uuid4())
    first = create(client, clientToken=token)
    rested(client, first["agentRuntimeId"])
    (server.buckets / "code/agent.zip").unlink()  # a repetition is not checked again
    second = create(client, clientToken=token)
    del first["ResponseMetadata"], second["ResponseMetadata"]
    assert second == first
    assert len(client.list_agent_runtimes()["agentRuntimes"]) == 1


def test_a_repeated_update_makes_no_other_version(server: ControlServer):
    client = server.client()
    runtime_id = create(client)["agentRuntimeId"]
    rested(client, runtime_id)
    token = str(uuid.uuid4())
    first = update(client, runtime_id, clientToken=token)
    rested(client, runtime_id)
    second = update(client, runtime_id, clientToken=token)
    assert second["agentRuntimeVersion"] == first["agentRuntimeVersion"] == "2"
    assert second["lastUpdatedAt"] == first["lastUpdatedAt"]
    assert rested(client, runtime_id)["agentRuntimeVersion"] == "2"


def test_a_repeated_delete_is_answered_after_the_runtime_is_gone(server: ControlServer):
    client = server.client()
    runtime_id = create(client)["agentRuntimeId"]
    rested(client, runtime_id)
    token = str(uuid.uuid4())
    client.delete_agent_runtime(agentRuntimeId=runtime_id, clientToken=token)
    gone(client, runtime_id)
    assert client.delete_agent_runtime(agentRuntimeId=runtime_id, clientToken=token)["status"] == "DELETING"


def test_a_token_with_other_parameters_is_refused(server: ControlServer):
    client = server.client()
    token = str(uuid.uuid4())
    create(client, clientToken=token)
    error = refused(create, client, "other", clientToken=token)
    assert said(error) == ("ValidationException", 400)
    assert error.response["reason"] == "IdempotentParameterMismatchException"


# -- listing ------------------------------------------------------------------------------------------------------


def test_a_listing_comes_in_pages_that_miss_nothing(server: ControlServer):
    client = server.client()
    for number in range(5):
        create(client, f"agent{number}", description=f"number {number}")
    names: list[str] = []
    token: dict[str, str] = {}
    pages = 0
    while True:
        page = client.list_agent_runtimes(maxResults=2, **token)
        pages += 1
        names += [runtime["agentRuntimeName"] for runtime in page["agentRuntimes"]]
        if "nextToken" not in page:
            break
        token = {"nextToken": page["nextToken"]}
    assert names == [f"agent{number}" for number in range(5)]
    assert pages == 3
    paginator = client.get_paginator("list_agent_runtimes")
    pages_of_sdk = paginator.paginate(PaginationConfig={"PageSize": 1})
    descriptions = [runtime["description"] for page in pages_of_sdk for runtime in page["agentRuntimes"]]
    assert descriptions == [f"number {number}" for number in range(5)]


def test_a_token_that_was_made_up_is_refused(server: ControlServer):
    error = refused(server.client().list_agent_runtimes, nextToken="AAAA")
    assert said(error) == ("ValidationException", 400)


def test_another_accounts_token_is_refused(server: ControlServer):
    client = server.client()
    create(client, "one")
    create(client, "two")
    token = client.list_agent_runtimes(maxResults=1)["nextToken"]
    other = server.client(server.control.keys.issue(Scope("444455556666", REGION)))
    assert said(refused(other.list_agent_runtimes, nextToken=token)) == ("ValidationException", 400)


# -- crashes ------------------------------------------------------------------------------------------------------


def test_what_was_under_way_is_finished_by_the_next_start(tmp_path: Path):
    first = ControlServer(tmp_path)
    put_zip(first.buckets)
    with first.run():

        async def close_gate() -> None:
            first.preparer.gate = asyncio.Event()

        client = first.client()
        doomed = create(client, "doomed")["agentRuntimeId"]
        rested(client, doomed)
        first.in_loop(close_gate)
        runtime_id = create(client)["agentRuntimeId"]
        store = first.control.app.context.store
        store.begin_delete(RuntimeKey(HERE, doomed), once=None, now=first._now())
    second = ControlServer(tmp_path)
    with second.run():
        assert second.key == first.key
        client = second.client()
        assert rested(client, runtime_id)["status"] == "READY"
        gone(client, doomed)
        assert second.warden.stopped == [(ACCOUNT, doomed)]


# -- what the gateways know ---------------------------------------------------------------------------------------


def test_when_an_answer_says_so_the_gateways_know(server: ControlServer):
    """A worker that keeps every route until told otherwise never serves one that the API has said is old."""
    client = server.client()
    routes: dict[str, int] = {}

    async def connect() -> ipc.Link:
        async def on_connect(peer: ipc.Peer) -> None:
            await peer.call(protocol.Hello(0), timeout_s=5)

        async def forget(_peer: ipc.Peer, body: Any, _fds: list[int]) -> ipc.Body:
            for runtime_id in body.runtime_ids:
                routes.pop(runtime_id, None)
            return ipc.Done()

        path = str(server.data_dir / "run" / "feed.sock")
        return ipc.Link(path, protocol.REPLIES, handler=forget, on_connect=on_connect)

    link = server.in_loop(connect)

    async def resolve(runtime_id: str) -> int:
        if runtime_id not in routes:
            reply, _ = await link.call(protocol.ResolveEndpoint(ACCOUNT, runtime_id, "DEFAULT"))
            routes[runtime_id] = reply.version
        return routes[runtime_id]

    runtime_id = create(client)["agentRuntimeId"]
    for version in range(1, 6):
        assert rested(client, runtime_id)["status"] == "READY"
        assert server.in_loop(lambda: resolve(runtime_id)) == version
        update(client, runtime_id)
    rested(client, runtime_id)
    client.delete_agent_runtime(agentRuntimeId=runtime_id)
    assert runtime_id not in routes
    with pytest.raises(Exception, match="No endpoint or agent found"):
        server.in_loop(lambda: resolve(runtime_id))
    server.in_loop(link.aclose)
