"""Any sequence of calls on runtimes, versions, endpoints, tags and client tokens, against a plain reference.

The reference knows only what the documentation says of the service. Deletion and preparation are waited for, so that
every step begins at rest; what is under way has tests of its own (`test_control_resources`).
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from control_calls import ClientError, artifact, create, gone, rested, token, until
from control_parts import put_zip
from control_server import ControlServer
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

STEPS = int(os.environ.get("SOAK_MACHINE_STEPS", "120"))
"""In all; `./dev soak` runs 2,000."""
STEPS_PER_RUN = 40
NAMES = st.sampled_from(["ada", "bob"])
ENDPOINTS = st.sampled_from(["DEFAULT", "prod", "test"])
VERSIONS = st.integers(1, 4)
TAGS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["", "1", "2"]), max_size=3)


@dataclass
class Pointer:
    version: int
    description: str | None = None
    tags: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Runtime:
    runtime_id: str
    versions: dict[int, dict[str, str]]
    """Number to environment variables."""
    latest: int = 1
    tags: dict[str, str] = field(default_factory=dict[str, str])
    endpoints: dict[str, Pointer] = field(default_factory=lambda: {"DEFAULT": Pointer(1)})


class Machine(RuleBasedStateMachine):
    """One server for all runs: what a run leaves is removed at its end."""

    server: ControlServer

    @initialize()
    def begin(self) -> None:
        self.client = self.server.client()
        self.runtimes: dict[str, Runtime] = {}
        self.used: list[tuple[Any, dict[str, Any], dict[str, Any]]] = []
        """Calls with a token that succeeded: method, arguments, answer."""

    def teardown(self) -> None:
        for runtime in self.runtimes.values():
            for name in set(runtime.endpoints) - {"DEFAULT"}:
                self._delete_endpoint(runtime, name)
            self.client.delete_agent_runtime(agentRuntimeId=runtime.runtime_id)
            gone(self.client, runtime.runtime_id)

    # -- calls ----------------------------------------------------------------------------------------------------

    def call(self, method: Any, expected: str | None, **arguments: Any) -> dict[str, Any] | None:
        """Call, and hold the outcome to what the reference expects: an error's code, or None for success."""
        try:
            answer = method(**arguments)
        except ClientError as error:
            assert error.response["Error"]["Code"] == expected  # noqa: PT017 - which is raised is the question
            return None
        assert expected is None
        answer.pop("ResponseMetadata")
        if "clientToken" in arguments:
            self.used.append((method, arguments, answer))
        return answer

    @rule(name=NAMES, tags=TAGS, value=st.sampled_from("xyz"))
    def create(self, name: str, tags: dict[str, str], value: str) -> None:
        taken = "ConflictException" if name in self.runtimes else None
        arguments: dict[str, Any] = {"environmentVariables": {"K": value}, "tags": tags, "clientToken": token()}
        made = self.call(lambda **more: create(self.client, name, **more), taken, **arguments)
        if made is not None:
            self.runtimes[name] = Runtime(made["agentRuntimeId"], {1: {"K": value}}, tags=dict(tags))
            assert rested(self.client, made["agentRuntimeId"])["status"] == "READY"

    @rule(name=NAMES, value=st.sampled_from("xyz"))
    def update(self, name: str, value: str) -> None:
        runtime = self.runtimes.get(name)
        made = self.call(
            self.client.update_agent_runtime,
            None if runtime else "ResourceNotFoundException",
            agentRuntimeId=self._id(name),
            agentRuntimeArtifact=artifact(),
            roleArn="arn:aws:iam::111122223333:role/agent",
            environmentVariables={"K": value},
            clientToken=token(),
        )
        if runtime is not None and made is not None:
            runtime.latest += 1
            assert made["agentRuntimeVersion"] == str(runtime.latest)
            runtime.versions[runtime.latest] = {"K": value}
            runtime.endpoints["DEFAULT"].version = runtime.latest
            rested(self.client, runtime.runtime_id)

    @rule(name=NAMES, version=VERSIONS)
    def delete_version(self, name: str, version: int) -> None:
        runtime = self.runtimes.get(name)
        expected = None
        if runtime is None or version not in runtime.versions:
            expected = "ResourceNotFoundException"
        elif version == runtime.latest or version in {each.version for each in runtime.endpoints.values()}:
            expected = "ConflictException"
        arguments = {"agentRuntimeId": self._id(name), "agentRuntimeVersion": str(version), "clientToken": token()}
        if self.call(self.client.delete_agent_runtime, expected, **arguments) and runtime:
            del runtime.versions[version]

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        runtime = self.runtimes.get(name)
        expected = None
        if runtime is None:
            expected = "ResourceNotFoundException"
        elif len(runtime.endpoints) > 1:
            expected = "ConflictException"
        arguments = {"agentRuntimeId": self._id(name), "clientToken": token()}
        if self.call(self.client.delete_agent_runtime, expected, **arguments):
            gone(self.client, self._id(name))
            del self.runtimes[name]

    @rule(name=NAMES, endpoint=ENDPOINTS, version=st.none() | VERSIONS, tags=TAGS)
    def create_endpoint(self, name: str, endpoint: str, version: int | None, tags: dict[str, str]) -> None:
        runtime = self.runtimes.get(name)
        expected = None
        if runtime is None:
            expected = "ResourceNotFoundException"
        elif endpoint in runtime.endpoints:
            expected = "ConflictException"
        elif version is not None and version not in runtime.versions:
            expected = "ResourceNotFoundException"
        arguments: dict[str, Any] = {"agentRuntimeId": self._id(name), "name": endpoint, "tags": tags}
        if version is not None:
            arguments["agentRuntimeVersion"] = str(version)
        made = self.call(self.client.create_agent_runtime_endpoint, expected, **arguments, clientToken=token())
        if made and runtime:
            runtime.endpoints[endpoint] = Pointer(version or runtime.latest, tags=dict(tags))

    @rule(name=NAMES, endpoint=ENDPOINTS, version=st.none() | VERSIONS, description=st.none() | st.just("new"))
    def update_endpoint(self, name: str, endpoint: str, version: int | None, description: str | None) -> None:
        runtime = self.runtimes.get(name)
        expected = None
        if runtime is None or endpoint not in runtime.endpoints:
            expected = "ResourceNotFoundException"
        elif endpoint == "DEFAULT":
            expected = "ConflictException"
        elif version is not None and version not in runtime.versions:
            expected = "ResourceNotFoundException"
        arguments: dict[str, Any] = {"agentRuntimeId": self._id(name), "endpointName": endpoint}
        if version is not None:
            arguments["agentRuntimeVersion"] = str(version)
        if description is not None:
            arguments["description"] = description
        if self.call(self.client.update_agent_runtime_endpoint, expected, **arguments, clientToken=token()) and runtime:
            pointer = runtime.endpoints[endpoint]
            pointer.version = version or pointer.version
            pointer.description = description or pointer.description

    @rule(name=NAMES, endpoint=ENDPOINTS)
    def delete_endpoint(self, name: str, endpoint: str) -> None:
        runtime = self.runtimes.get(name)
        expected = None
        if runtime is None or endpoint not in runtime.endpoints:
            expected = "ResourceNotFoundException"
        elif endpoint == "DEFAULT":
            expected = "ConflictException"
        arguments = {"agentRuntimeId": self._id(name), "endpointName": endpoint, "clientToken": token()}
        if self.call(self.client.delete_agent_runtime_endpoint, expected, **arguments) and runtime:
            self._endpoint_gone(runtime, endpoint)
            del runtime.endpoints[endpoint]

    @rule(name=NAMES, endpoint=st.none() | ENDPOINTS, tags=TAGS, keys=st.lists(st.sampled_from("abc"), max_size=2))
    def tag(self, name: str, endpoint: str | None, tags: dict[str, str], keys: list[str]) -> None:
        runtime = self.runtimes.get(name)
        kept = None
        if runtime is not None:
            pointer = None if endpoint is None else runtime.endpoints.get(endpoint)
            kept = runtime.tags if endpoint is None else pointer and pointer.tags
        expected = "ResourceNotFoundException" if kept is None else None
        arn = self._arn(name, endpoint)
        self.call(self.client.tag_resource, expected, resourceArn=arn, tags=tags)
        if keys:
            self.call(self.client.untag_resource, expected, resourceArn=arn, tagKeys=keys)
        if kept is not None:
            kept.update(tags)
            for key in keys:
                kept.pop(key, None)

    @precondition(lambda self: self.used)
    @rule(data=st.data(), changed=st.booleans())
    def replay(self, data: Any, changed: bool) -> None:
        method, arguments, answer = data.draw(st.sampled_from(self.used))
        if changed:
            other = {**arguments, "agentRuntimeId": "other-0123456789"}
            if "agentRuntimeId" not in arguments:
                other = {**arguments, "description": "another"}
            with pytest.raises(ClientError) as refusal:
                method(**other)
            assert refusal.value.response["reason"] == "IdempotentParameterMismatchException"
        else:
            again = method(**arguments)
            again.pop("ResponseMetadata")
            assert again == answer

    # -- what must hold -------------------------------------------------------------------------------------------

    @invariant()
    def everything_is_as_the_reference_says(self) -> None:
        if not hasattr(self, "client"):
            return
        client = self.client
        listed = list(_lines(client, "list_agent_runtimes", "agentRuntimes"))
        assert {line["agentRuntimeName"]: line["agentRuntimeId"] for line in listed} == {
            name: runtime.runtime_id for name, runtime in self.runtimes.items()
        }
        for name, runtime in self.runtimes.items():
            which = {"agentRuntimeId": runtime.runtime_id}
            got = client.get_agent_runtime(**which)
            assert (got["agentRuntimeVersion"], got["status"]) == (str(runtime.latest), "READY")
            assert got["environmentVariables"] == runtime.versions[runtime.latest]
            versions = _lines(client, "list_agent_runtime_versions", "agentRuntimes", **which)
            assert [line["agentRuntimeVersion"] for line in versions] == [str(n) for n in sorted(runtime.versions)]
            endpoints = {
                e["name"]: e for e in _lines(client, "list_agent_runtime_endpoints", "runtimeEndpoints", **which)
            }
            assert set(endpoints) == set(runtime.endpoints)
            for endpoint, pointer in runtime.endpoints.items():
                found = endpoints[endpoint]
                assert found["liveVersion"] == found["targetVersion"] == str(pointer.version)
                assert (found.get("description"), found["status"]) == (pointer.description, "READY")
                assert self._tags(name, endpoint) == pointer.tags
            assert self._tags(name, None) == runtime.tags

    # -- parts ----------------------------------------------------------------------------------------------------

    def _id(self, name: str) -> str:
        runtime = self.runtimes.get(name)
        return f"{name}-0123456789" if runtime is None else runtime.runtime_id

    def _arn(self, name: str, endpoint: str | None) -> str:
        arn = f"arn:aws:bedrock-agentcore:eu-central-1:111122223333:runtime/{self._id(name)}"
        return arn if endpoint is None else f"{arn}/runtime-endpoint/{endpoint}"

    def _tags(self, name: str, endpoint: str | None) -> dict[str, str]:
        return self.client.list_tags_for_resource(resourceArn=self._arn(name, endpoint))["tags"]

    def _delete_endpoint(self, runtime: Runtime, name: str) -> None:
        self.client.delete_agent_runtime_endpoint(agentRuntimeId=runtime.runtime_id, endpointName=name)
        self._endpoint_gone(runtime, name)

    def _endpoint_gone(self, runtime: Runtime, name: str) -> None:
        which = {"agentRuntimeId": runtime.runtime_id}
        until(
            lambda: (
                name
                not in [
                    e["name"] for e in _lines(self.client, "list_agent_runtime_endpoints", "runtimeEndpoints", **which)
                ]
            )
        )


def _lines(client: Any, listing: str, key: str, **arguments: Any) -> list[dict[str, Any]]:
    pages = client.get_paginator(listing).paginate(**arguments, PaginationConfig={"PageSize": 2})
    return [line for page in pages for line in page[key]]


@pytest.mark.slow
def test_any_sequence_of_calls_does_what_the_reference_does():
    with tempfile.TemporaryDirectory() as directory:
        server = ControlServer(Path(directory))
        put_zip(server.buckets)
        with server.run():

            class Bound(Machine):
                pass

            Bound.server = server
            checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
            profile = settings(
                max_examples=max(1, STEPS // STEPS_PER_RUN),
                stateful_step_count=STEPS_PER_RUN,
                deadline=None,
                suppress_health_check=checks,
                database=None,
            )
            run_state_machine_as_test(Bound, settings=profile)
