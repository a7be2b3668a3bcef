"""What fuzzing has kept is read again, by both readers. `./dev soak --fuzz` looks for more."""

from __future__ import annotations

import re

import fuzz_targets
import pytest
from fuzz_targets import TARGETS, Finding

from freehold.gateway import framing, heads


@pytest.mark.parametrize("target", TARGETS)
def test_both_readers_agree_on_all_that_was_kept(target: str) -> None:
    inputs = [*fuzz_targets.load(target), *fuzz_targets.seeds(target)]
    assert len(inputs) >= 200
    for data in inputs:
        TARGETS[target](data)


def findings(target: str) -> list[bytes]:
    found: list[bytes] = []
    for data in fuzz_targets.load(target):
        try:
            TARGETS[target](data)
        except Finding:
            found.append(data)
    return found


def test_a_reader_that_takes_more_than_it_should_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "_SIZE_LINE", re.compile(rb"[+ ]*(?:0x)?([0-9A-Fa-f]{1,15})(?:[ \t]*;.*)?[ \t]*"))
    assert findings("chunks")
    assert findings("agent_connection")


def test_a_reader_that_prefers_one_of_two_framings_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def lenient(data: bytes) -> heads.RequestHead:
        lines = [line for line in data.split(b"\r\n") if not line.lower().startswith(b"transfer-encoding")]
        return read(b"\r\n".join(lines))

    read = heads.parse_request
    monkeypatch.setattr(heads, "parse_request", lenient)
    assert findings("request_head")
    assert findings("client_connection")


def test_inputs_are_kept_as_they_are() -> None:
    data = bytes(range(256)) + b"\\x00\\n\n"
    assert fuzz_targets.unescaped(fuzz_targets.escaped(data)) == data
