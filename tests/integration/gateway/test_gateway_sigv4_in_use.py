"""Who gets in by signature to a session in use, in both forms of the short way: whoever gets in by the long one."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import compiled_forms
import pytest
from gateway_stage import Stage, read_response
from signed_requests import BODY, KEYS, PAST, TEMPORARY, Case, change, sign
from sigv4_cases import ATTACKS, NEAR_MISSES, SESSION

from freehold.gateway import fast

IN_QUERY = ("query", "token outside")
HEADERS = {"Content-Type": "application/json", "X-Custom": "one two"}
KINDS: dict[str, dict[str, Any]] = {
    "as SDKs sign": {},
    "with the hash of the body": {"claimed": True},
    "with a temporary key": {"key": TEMPORARY},
}


@pytest.fixture(scope="module", params=compiled_forms.FORMS)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    fast.choose(compiled_forms.of(request.param))
    with Stage(Path(tmp_path_factory.mktemp("stage"))) as made:
        made.control.keys = {key.access_key_id: key for key in KEYS}
        yield made
    fast.choose(fast.load())


def signed(of: Mapping[str, Any]) -> dict[str, Any]:
    """The same in the session."""
    return {**of, "headers": {**of.get("headers", {}), SESSION: "s" * 40}}


def use(stage: Stage, of: Mapping[str, Any], times: int = 4) -> list[int]:
    """Have requests of this kind be in use; the answers' statuses."""
    with stage.connect() as sock:
        statuses: list[int] = []
        for number in range(times):
            sock.sendall(sign(dt.datetime.now(dt.UTC), **{**of, "body": b"%d" % number}).to_bytes())
            statuses.append(read_response(sock)[0])
        return statuses


@pytest.mark.parametrize("kind", KINDS)
def test_signed_requests_of_a_kind_go_the_short_way_once_one_has_gone_the_long_one(
    stage: Stage, passed: list[bool], kind: str
) -> None:
    stage.changed(runtime_ids=["agent-0123456789"])
    assert use(stage, signed({**KINDS[kind], "headers": HEADERS}), 6) == [200] * 6
    assert passed[-4:] == [True] * 4


@pytest.mark.parametrize(
    "case", [case for case in ATTACKS if case.signed.get("form") not in IN_QUERY], ids=lambda case: case.what
)
def test_an_attack_on_a_session_in_use_is_refused(stage: Stage, case: Case) -> None:
    now = dt.datetime.now(dt.UTC)
    of = signed(case.signed)
    right = {"headers": of["headers"], "claimed": "claimed" in of}
    if of.get("key") is TEMPORARY:
        right["key"] = TEMPORARY
    assert use(stage, right) == [200] * 4
    claims = len(stage.warden.claims)
    with stage.connect() as sock:
        sock.sendall(change(sign(now, **of), case.steps).to_bytes())
        status, headers, _ = read_response(sock)
    assert (status, headers.get("x-amzn-errortype")) == (case.status, case.code)
    assert len(stage.warden.claims) == claims


@pytest.mark.parametrize(
    "case",
    [case for case in NEAR_MISSES if case.signed.get("form") not in IN_QUERY and SESSION not in repr(case.steps)],
    ids=lambda case: case.what,
)
def test_a_request_that_is_right_is_served_in_a_session_in_use(stage: Stage, case: Case) -> None:
    of = signed(case.signed)
    with stage.connect() as sock:
        for _ in range(4):
            sock.sendall(change(sign(dt.datetime.now(dt.UTC), **of), case.steps).to_bytes())
            status, _, told = read_response(sock)
            assert (status, told) == (200, of.get("body", BODY))


def test_in_a_session_in_use_no_bit_may_be_turned_over_that_was_signed(stage: Stage, passed: list[bool]) -> None:
    of = signed({"headers": {**HEADERS, "X-Amz-Custom": "a b"}, "key": TEMPORARY, "claimed": True})
    use(stage, of)
    wire = sign(dt.datetime.now(dt.UTC), **of)
    data = wire.to_bytes()
    values = [(data.index(f"\r\n{name}: {value}\r\n".encode()) + len(name) + 4, value) for name, value in wire.headers]
    signed_bytes = [at + index for at, value in values for index in range(len(value))]
    sock = stage.connect()
    for index in [*signed_bytes, *range(len(data) - len(wire.body), len(data))]:
        # Another bit of each byte; of letters also that which makes capitals of them.
        for bit in {1 << index % 8, 0x20 if chr(data[index]).isalpha() else 1}:
            sock.sendall(data[:index] + bytes([data[index] ^ bit]) + data[index + 1 :])
            status, headers, _ = read_response(sock)
            assert 400 <= status < 500, (index, bit)
            if headers.get("connection") == "close":
                sock.close()
                sock = stage.connect()
    del passed[:]
    for _ in range(3):
        sock.sendall(data)
        assert read_response(sock)[0] == 200
    assert passed[-1:] == [True]
    sock.close()


@pytest.mark.parametrize("changed", [{"secret": "n" * 40}, {"expires_at": PAST.expires_at}, {"account": "1" * 12}])
def test_a_key_that_is_not_what_it_was_opens_no_session_in_use(stage: Stage, changed: dict[str, Any]) -> None:
    of = signed({"key": TEMPORARY, "headers": HEADERS})
    assert use(stage, of) == [200] * 4
    stage.control.keys[TEMPORARY.access_key_id] = dataclasses.replace(TEMPORARY, **changed)
    stage.changed(access_key_ids=[TEMPORARY.access_key_id])
    try:
        assert set(use(stage, of)) <= {403, 404}
    finally:
        stage.control.keys[TEMPORARY.access_key_id] = TEMPORARY
        stage.changed(access_key_ids=[TEMPORARY.access_key_id])
    assert use(stage, of) == [200] * 4


def test_a_signature_that_was_good_is_refused_once_its_time_is_over(stage: Stage) -> None:
    of = signed({"headers": HEADERS})
    assert use(stage, of) == [200] * 4
    data = sign(dt.datetime.now(dt.UTC), **of).to_bytes()
    real = stage.now
    try:
        with stage.connect() as sock:
            for seconds, status in ((0, 200), (290, 200), (302, 403), (-290, 200), (-310, 403), (86_400, 403)):
                stage.now = lambda seconds=seconds: time.time() + seconds
                sock.sendall(data)
                assert read_response(sock)[0] == status, seconds
    finally:
        stage.now = real
