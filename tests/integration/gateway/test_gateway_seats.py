"""Requests of a session in use: they go a shorter way, on which nothing is taken for granted."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import compiled_forms
import pytest
from gateway_stage import (
    ACCOUNT,
    INVOCATIONS,
    KEY,
    OTHER_KEY,
    RUNTIME_ID,
    Stage,
    echo_heads,
    eventually,
    read_response,
    signed,
)

from freehold.domain.runtimes import ServerProtocol
from freehold.domain.sessions import EndReason
from freehold.gateway.fast import Compiled

OTHER_SESSION = "t" * 40
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


@pytest.fixture(params=compiled_forms.FORMS)
def form(request: pytest.FixtureRequest) -> Compiled | None:
    """Of the short ways: both."""
    return compiled_forms.of(request.param)


@pytest.fixture
def ask(stage: Stage) -> Callable[..., tuple[int, dict[str, str], bytes]]:
    """Sends a signed request over the one connection of the test; the answer's body is what the agent was sent."""
    stage.agent = echo_heads
    stage.contract(1, ServerProtocol.HTTP, "x-amzn-bedrock-agentcore-runtime-custom-colour")
    sock = stage.connect()

    def send(body: bytes = b"{}", **options: Any) -> tuple[int, dict[str, str], bytes]:
        sock.sendall(signed(INVOCATIONS, body, **options))
        return read_response(sock)

    return send


Ask = Callable[..., tuple[int, dict[str, str], bytes]]


def test_the_second_request_like_one_that_arrived_and_every_later_one_goes_the_short_way(
    passed: list[bool], ask: Ask, stage: Stage
) -> None:
    answers = [ask(b"%d" % number) for number in range(5)]
    assert {status for status, _, _ in answers} == {200}
    # The first head of its kind is read, the second one recognised, and then there is a seat.
    assert passed == [True, True, True]
    assert len(stage.warden.claims) == 1


def test_on_the_short_way_an_agent_is_told_what_it_is_told_on_the_long_one(ask: Ask) -> None:
    def told() -> tuple[set[bytes], set[str]]:
        _, head, agents = ask(b"{}", unsigned={"accept": "a/b", "user-agent": "me", "baggage": "k=v"})
        return set(agents.split(b"\r\n")), {f"{name}: {value}" for name, value in head.items()}

    def constant(lines: tuple[set[bytes], set[str]]) -> tuple[set[bytes], set[str]]:
        moving = re.compile(r"(?i)x-amzn-bedrock-agentcore-runtime-request-id|x-amzn-requestid|(x-amzn-)?trace|date")
        return (
            {line for line in lines[0] if not moving.match(line.decode())},
            {line for line in lines[1] if not moving.match(line)},
        )

    first, *others = [told() for _ in range(4)]
    assert b"baggage: k=v" in first[0]
    assert all(constant(lines) == constant(first) for lines in others)
    moving = [frozenset(line for line in lines[0] if line not in constant(first)[0]) for lines in (first, *others)]
    assert len(set(moving)) == 4
    assert {len(lines) for lines in moving} == {3}, "a request id, and a trace in both forms"


@pytest.mark.parametrize("name", ["accept", "baggage", "X-Amzn-Bedrock-AgentCore-Runtime-Custom-Colour"])
def test_what_reaches_the_agent_is_what_this_request_says(ask: Ask, name: str) -> None:
    for value in ("one", "one", "one", "two", "two", "one"):
        status, _, told = ask(unsigned={name: value})
        assert status == 200
        assert f"{name.lower()}: {value}".encode() in told.lower().split(b"\r\n")


def test_a_trace_is_the_requests_own(ask: Ask) -> None:
    for _ in range(4):
        ask(unsigned={"traceparent": TRACEPARENT})
    for number in range(3):
        mine = TRACEPARENT.replace("4bf9", f"000{number + 1}")
        assert f"traceparent: {mine}".encode() in ask(unsigned={"traceparent": mine})[2]
    status, _, refused = ask(unsigned={"traceparent": "0" * 200})
    assert (status, json.loads(refused)["reason"]) == (400, "FieldValidationFailed")


def test_a_wrong_signature_is_refused_in_a_session_in_use(ask: Ask) -> None:
    for _ in range(4):
        assert ask()[0] == 200
    stranger = dataclasses.replace(KEY, secret="x" * 40)
    assert ask(key=stranger)[0] == 403
    assert ask()[0] == 200


def test_another_accounts_key_does_not_get_into_a_session_in_use(ask: Ask, stage: Stage) -> None:
    for _ in range(4):
        assert ask()[0] == 200
    assert ask(key=OTHER_KEY)[0] == 404
    assert {key.account for key in stage.warden.claims} == {ACCOUNT}


def test_another_session_id_is_another_session(ask: Ask, stage: Stage) -> None:
    for session in [None, *["s" * 40, OTHER_SESSION] * 4]:
        told = ask(session=session)[2]
        assert session is None or session.encode() in told
    assert len({key.session_id for key in stage.warden.claims}) == 3


def test_requests_without_a_session_id_get_a_session_each(ask: Ask, stage: Stage) -> None:
    for _ in range(5):
        assert ask(session=None)[0] == 200
    assert len({key.session_id for key in stage.warden.claims}) == 5


def test_after_a_change_of_the_runtime_nothing_goes_by_what_was_known_of_it(ask: Ask, stage: Stage) -> None:
    for _ in range(4):
        assert ask()[0] == 200
    del stage.control.routes[(ACCOUNT, RUNTIME_ID, "DEFAULT")]
    stage.changed(runtime_ids=[RUNTIME_ID])
    assert ask()[0] == 404


def test_a_disabled_key_is_refused_in_a_session_in_use(ask: Ask, stage: Stage) -> None:
    for _ in range(4):
        assert ask()[0] == 200
    del stage.control.keys[KEY.access_key_id]
    stage.changed(access_key_ids=[KEY.access_key_id])
    assert ask()[0] == 403


def test_a_session_that_has_ended_is_started_anew(ask: Ask, stage: Stage) -> None:
    for _ in range(4):
        assert ask()[0] == 200
    stage.call(lambda: stage.warden.end(EndReason.IDLE_TIMEOUT))
    eventually(lambda: ask()[0] == 200 and len(stage.warden.claims) == 2)
