"""Who gets in by signature, through a worker: every attack of the table is refused, every near miss is served."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_stage import Stage, read_response
from signed_requests import KEYS, Case
from sigv4_cases import ATTACKS, NEAR_MISSES


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(Path(tmp_path_factory.mktemp("stage"))) as made:
        made.control.keys = {key.access_key_id: key for key in KEYS}
        yield made


def sent(stage: Stage, case: Case) -> tuple[int, str, bytes]:
    """The answer's status, its code and its body."""
    now = dt.datetime.now(dt.UTC)
    with stage.connect() as sock:
        sock.sendall(case.wire(now).to_bytes())
        status, headers, body = read_response(sock)
    return status, headers.get("x-amzn-errortype", ""), body


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.what)
def test_an_attack_is_refused_and_reaches_no_agent(stage: Stage, case: Case) -> None:
    claims = len(stage.warden.claims)
    status, code, body = sent(stage, case)
    told = json.loads(body)
    assert (status, code) == (case.status, case.code), told
    assert told["message"]
    for key in KEYS:
        assert key.secret not in body.decode()
    assert len(stage.warden.claims) == claims


@pytest.mark.parametrize("case", NEAR_MISSES, ids=lambda case: case.what)
def test_a_request_that_is_right_is_served(stage: Stage, case: Case) -> None:
    status, code, body = sent(stage, case)
    assert (status, code) == (200, ""), body
    assert body == (case.signed.get("body", b'{"prompt": "hello"}'))


def test_the_tables_are_long_enough_and_say_no_sentence_twice() -> None:
    names = [case.what for case in (*ATTACKS, *NEAR_MISSES)]
    assert len(set(names)) == len(names)
    assert len(ATTACKS) >= 120
    assert len(NEAR_MISSES) >= 60
