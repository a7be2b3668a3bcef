"""Paths as they come over the wire, and the operations they name."""

from __future__ import annotations

from typing import Any

import pytest
from aws_parts import CONTROL, DATA, service
from hypothesis import given
from hypothesis import strategies as st

from freehold.aws.model import Operation, Service, UnsupportedModel
from freehold.aws.router import BadPath, NoRoute, Router, UnknownPath, WrongMethod

CONTROL_ROUTES = Router(service(CONTROL))
DATA_ROUTES = Router(service(DATA))
ARN = "arn:aws:bedrock-agentcore:eu-central-1:111122223333:runtime/agent-0123456789"
ENCODED = ARN.replace(":", "%3A").replace("/", "%2F").encode()


def routes(*templates: str) -> Router:
    operations = {uri: Operation(uri, "GET", uri, 200) for uri in templates}
    return Router(Service("s", "1", "s", operations, {}))


def test_an_arn_is_one_segment_decoded_once():
    match = DATA_ROUTES.match("POST", b"/runtimes/" + ENCODED + b"/invocations")
    assert match.operation.name == "InvokeAgentRuntime"
    assert match.path_params == {"agentRuntimeArn": ARN}
    twice = DATA_ROUTES.match("POST", b"/runtimes/" + ENCODED.replace(b"%", b"%25") + b"/invocations")
    assert twice.path_params == {"agentRuntimeArn": ENCODED.decode()}


def test_an_arn_that_is_not_encoded_is_no_path():
    with pytest.raises(UnknownPath):
        DATA_ROUTES.match("POST", f"/runtimes/{ARN}/invocations".encode())


@pytest.mark.parametrize("path", [b"/runtimes", b"/runtimes/"])
def test_a_final_slash_does_not_count(path: bytes):
    assert CONTROL_ROUTES.match("PUT", path).operation.name == "CreateAgentRuntime"
    assert CONTROL_ROUTES.match("POST", path).operation.name == "ListAgentRuntimes"


def test_a_wrong_method_is_told_from_an_unknown_path():
    with pytest.raises(WrongMethod) as wrong:
        CONTROL_ROUTES.match("PATCH", b"/runtimes/agent-0123456789/")
    assert wrong.value.allowed == ("DELETE", "GET", "PUT")
    with pytest.raises(WrongMethod) as wrong:
        DATA_ROUTES.match("GET", b"/runtimes/x/invocations")
    assert wrong.value.message == "Method Not Allowed. Use POST."
    with pytest.raises(UnknownPath):
        CONTROL_ROUTES.match("GET", b"/elsewhere")


@pytest.mark.parametrize(
    "path",
    [b"", b"*", b"runtimes", b"//runtimes", b"/runtimes//", b"/runtimes/./", b"/x/../runtimes", b"/runtimes//versions"],
)
def test_a_path_that_signers_normalise_names_nothing(path: bytes):
    with pytest.raises(UnknownPath):
        CONTROL_ROUTES.match("PUT", path)


@pytest.mark.parametrize("segment", [b"%", b"%4", b"%zz", b"a%4xb", b"%ff", b"%c3", b"%ed%a0%80", b"\xff"])
def test_a_label_that_is_not_encoded_utf8_is_refused(segment: bytes):
    with pytest.raises(BadPath):
        CONTROL_ROUTES.match("GET", b"/runtimes/" + segment + b"/")


def test_an_encoded_slash_or_dot_stays_in_its_segment():
    assert routes("/a/{x}").match("GET", b"/a/b%2Fc").path_params == {"x": "b/c"}
    assert routes("/a/{x}").match("GET", b"/a/%2e%2e").path_params == {"x": ".."}


def test_literals_go_before_labels_but_lead_astray_nobody():
    router = routes("/a/{x}/c", "/a/b/d")
    assert router.match("GET", b"/a/b/d").operation.name == "/a/b/d"
    assert router.match("GET", b"/a/b/c").operation.name == "/a/{x}/c"


def test_a_greedy_label_takes_several_segments():
    router = routes("/a/{key+}", "/b/{key+}/end")
    assert router.match("GET", b"/a/b/c%2Fd/e").path_params == {"key": "b/c/d/e"}
    assert router.match("GET", b"/b/x/y/end").path_params == {"key": "x/y"}
    for path in (b"/a", b"/b/end", b"/b/x/y"):
        with pytest.raises(UnknownPath):
            router.match("GET", path)


@pytest.mark.parametrize("uris", [("/a/{x}", "/a/{y}"), ("/a/x{y}",), ("/a/{x}y",)])
def test_routes_that_can_not_be_told_apart_are_refused(uris: tuple[str, ...]):
    with pytest.raises(UnsupportedModel):
        routes(*uris)


def test_a_very_long_path_is_no_work():
    """Counted by nodes visited, not by time: no node lies deeper than the longest template."""
    for path in (b"/runtimes" * 100_000, b"/a" * 500_000, b"/runtimes/" + b"a" * 1_000_000 + b"/x"):
        with pytest.raises(UnknownPath):
            CONTROL_ROUTES.match("GET", path)


@given(st.sampled_from(["GET", "PUT", "X"]), st.binary(max_size=100))
def test_no_path_is_more_than_no_route(method: str, path: bytes):
    for raw in (path, b"/runtimes/" + path):
        for router in (CONTROL_ROUTES, DATA_ROUTES):
            try:
                match: Any = router.match(method, raw)
            except NoRoute:
                continue
            assert match.operation.method == method
