"""Runtimes, sessions, logs and keys of the operator API, called with requests that botocore signs."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import botocore.auth
import msgspec
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from control_parts import ACCOUNT, HERE, REGION, put_zip, stored
from control_server import ControlServer

from freehold.auth.keys import AccessKey
from freehold.domain.sessions import EndReason, SessionKey, SessionState
from freehold.domain.usage import Usage
from freehold.warden import log_files
from freehold.warden.log_store import LogBounds, LogStore, new_record
from freehold.warden.protocol import SessionInfo, SessionRecord

API = "/_freehold/v1"
RUNTIME = "agent-0123456789"
KEY = SessionKey(ACCOUNT, RUNTIME, "DEFAULT", f"account:{ACCOUNT}", "s" * 33)
BEGIN = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    made = ControlServer(tmp_path)
    put_zip(made.buckets)
    with made.run():
        yield made


def begin(
    server: ControlServer, method: str, target: str, key: AccessKey | None = None
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    key = key or server.key
    request = AWSRequest(method=method, url=server.url + API + target)
    credentials = Credentials(key.access_key_id, key.secret, key.session_token)
    # A client whose clock goes as the server's.
    with mock.patch("botocore.auth.get_current_datetime", return_value=server._now().replace(tzinfo=None)):
        botocore.auth.SigV4Auth(credentials, "bedrock-agentcore", REGION).add_auth(request)
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
    connection.request(method, API + target, headers=dict(request.headers.items()))
    return connection, connection.getresponse()


def call(server: ControlServer, method: str, target: str, key: AccessKey | None = None) -> tuple[int, Any]:
    connection, answer = begin(server, method, target, key)
    try:
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


# -- runtimes -----------------------------------------------------------------------------------------------------


def test_a_runtime_is_shown_with_what_aws_would_do_otherwise(server: ControlServer):
    server.preparer.gate = asyncio.Event()
    key = stored(server.control.app.context.store)
    status, shown = call(server, "GET", f"/runtimes/{key.runtime_id}")
    assert status == 200
    codes = {warning["code"] for warning in shown["parityWarnings"]}
    assert {"RUNTIME_DEPRECATED", "LOCAL_BUCKET", "NO_ROLE_CREDENTIALS", "IDLE_RULE"} <= codes
    assert "ROLE_ACCOUNT" not in codes
    assert shown["logGroups"] == [f"/aws/bedrock-agentcore/runtimes/{key.runtime_id}-DEFAULT"]
    assert shown["version"]["protocol"] == "AGUI"


def test_values_of_environment_variables_are_never_shown(server: ControlServer):
    server.preparer.gate = asyncio.Event()
    key = stored(server.control.app.context.store, environmentVariables={"API_KEY": "hunter2hunter2"})
    _, shown = call(server, "GET", f"/runtimes/{key.runtime_id}")
    assert shown["version"]["environmentVariables"] == ["API_KEY"]
    assert "hunter2" not in json.dumps(shown)


@pytest.mark.parametrize(("name", "status"), [("other-0123456789", 404), ("..%2f..", 400), ("agent", 400)])
def test_a_runtime_that_is_not_there_is_not_found(server: ControlServer, name: str, status: int):
    assert call(server, "GET", f"/runtimes/{name}")[0] == status


# -- sessions -----------------------------------------------------------------------------------------------------


def running(generation: int, account: str = ACCOUNT) -> SessionInfo:
    key = dataclasses.replace(KEY, account=account)
    usage = Usage(1.25, 2048, 4096, 3)
    return SessionInfo(generation, key, 1, SessionState.READY, 1, 10.0, 0.0, requests=4, usage=usage)


def test_a_session_is_shown_with_its_usage_then_stopped_and_remembered(server: ControlServer):
    server.warden.running = [running(5)]
    _, shown = call(server, "GET", "/sessions/5")
    assert shown["usage"] == {"cpuSeconds": 1.25, "memoryBytes": 2048, "memoryPeakBytes": 4096, "processes": 3}
    assert (shown["state"], shown["requests"]) == ("READY", 4)
    status, stopped = call(server, "DELETE", "/sessions/5")
    assert (status, stopped["state"], stopped["reason"]) == (200, "ENDED", "stopped by an operator")
    _, ended = call(server, "GET", "/sessions/ended")
    assert [one["generation"] for one in ended["sessions"]] == [5]
    assert call(server, "DELETE", "/sessions/5")[0] == 404


def test_another_accounts_session_can_be_neither_seen_nor_stopped(server: ControlServer):
    server.warden.running = [running(5, "444455556666")]
    assert call(server, "GET", "/sessions/5")[0] == 404
    assert call(server, "DELETE", "/sessions/5")[0] == 404
    assert len(server.warden.running) == 1


def test_ended_sessions_come_newest_first_page_by_page_and_say_why(server: ControlServer):
    for number in range(1, 8):
        server.warden.history.add(
            SessionRecord(number, KEY, 1, "g", BEGIN, ended_at=BEGIN, reason=EndReason.IDLE_TIMEOUT, detail="d")
        )
    _, first = call(server, "GET", "/sessions/ended?maxResults=4")
    assert [one["generation"] for one in first["sessions"]] == [7, 6, 5, 4]
    assert first["sessions"][0]["reason"] == "idle timeout"
    _, rest = call(server, "GET", f"/sessions/ended?maxResults=4&before={first['nextBefore']}")
    assert [one["generation"] for one in rest["sessions"]] == [3, 2, 1]
    assert "nextBefore" not in rest


@pytest.mark.parametrize(
    "target",
    [
        *("/sessions?what=1", "/sessions?after=1&after=2", "/sessions?usage=maybe", "/sessions/x", "/sessions/-1"),
        *("/sessions/ended?sessionId=short", "/sessions?runtimeId=..", "/sessions/ended?maxResults=51", "/keys?x=1"),
        *("/logs", "/logs?runtimeId=../../x", f"/logs?runtimeId={RUNTIME}&endpoint=..", "/logs?runtimeId=a%2Fb"),
        *(f"/logs?runtimeId={RUNTIME}&tail=10001", f"/logs?runtimeId={RUNTIME}&startTime=yesterday"),
        *(f"/logs?runtimeId={RUNTIME}&startTime=2026-01-01T00:00:00", f"/logs?runtimeId={RUNTIME}&generation=../1"),
        *(f"/logs?runtimeId={RUNTIME}&tail=1&startTime=2026-01-01T00:00:00Z", f"/sessions/{2**63}"),
        f"/logs?runtimeId={RUNTIME}&follow=true&endTime=2026-01-01T00:00:00Z",
    ],
)
def test_what_breaks_a_rule_is_refused_by_name(server: ControlServer, target: str):
    status, told = call(server, "GET", target)
    assert status == 400
    assert told["fieldList"][0]["name"]


# -- logs ---------------------------------------------------------------------------------------------------------


class Printing:
    """The warden's side: sessions that print."""

    def __init__(self, root: Path) -> None:
        self.now = BEGIN
        self.store = LogStore(root, LogBounds(), now=lambda: self.now)
        self.records: dict[int, SessionRecord] = {}

    def open(self, generation: int, **changes: str) -> None:
        record = new_record(dataclasses.replace(KEY, **changes), generation, 1, now=self.now)
        self.store.open(record)
        self.records[generation] = record

    def print(self, generation: int, *texts: str) -> None:
        key = self.records[generation].key
        self.store.append(generation, [log_files.line(key, generation, self.now, "stdout", text) for text in texts])
        self.now += timedelta(seconds=1)

    def end(self, generation: int) -> None:
        self.store.close(msgspec.structs.replace(self.records[generation], ended_at=self.now, reason=EndReason.STOPPED))


@pytest.fixture
def printing(server: ControlServer) -> Printing:
    return Printing(server.data_dir / "logs")


def logs(server: ControlServer, query: str = "") -> list[str]:
    connection, answer = begin(server, "GET", f"/logs?runtimeId={RUNTIME}{query}")
    try:
        assert answer.status == 200
        return [json.loads(line)["text"] for line in answer.read().splitlines()]
    finally:
        connection.close()


def test_lines_of_several_sessions_are_told_in_order_of_their_instants(server: ControlServer, printing: Printing):
    printing.open(1)
    printing.print(1, "a")
    printing.open(2, session_id="t" * 33)
    for number in range(3):
        printing.print(2, f"b{number}")
        printing.print(1, f"c{number}")
    printing.end(1)
    assert logs(server) == ["a", "b0", "c0", "b1", "c1", "b2", "c2"]
    assert logs(server, "&tail=3") == ["c1", "b2", "c2"]
    assert logs(server, "&tail=0") == []
    assert logs(server, f"&sessionId={'t' * 33}") == ["b0", "b1", "b2"]
    assert logs(server, "&generation=1&tail=1") == ["c2"]
    assert logs(server, "&endpoint=DEFAULT&tail=1") == ["c2"]
    assert logs(server, "&endpoint=prod") == []


def test_a_range_has_its_begin_and_not_its_end(server: ControlServer, printing: Printing):
    printing.open(1)
    for number in range(5):
        printing.print(1, str(number))
    assert logs(server, "&startTime=2026-11-24T12:00:01Z&endTime=2026-11-24T12:00:03Z") == ["1", "2"]


def test_another_accounts_lines_are_not_told(server: ControlServer, printing: Printing):
    printing.open(1, account="444455556666")
    printing.print(1, "secret")
    assert logs(server) == []
    assert logs(server, "&tail=10") == []


def test_lines_are_followed_over_new_sessions_and_rotations_until_the_client_goes(
    server: ControlServer, printing: Printing
):
    printing.open(1)
    printing.print(1, "before")
    connection, answer = begin(server, "GET", f"/logs?runtimeId={RUNTIME}&follow=true&tail=1")
    assert json.loads(answer.readline())["text"] == "before"
    printing.print(1, "x" * 8000)
    assert json.loads(answer.readline())["text"] == "x" * 8000
    printing.open(2)
    printing.print(2, *(f"{number} {'y' * 4000}" for number in range(3000)))
    assert [int(json.loads(answer.readline())["text"].split()[0]) for _ in range(3000)] == list(range(3000))
    assert len(list(server.data_dir.rglob("*.jsonl"))) > 3
    connection.close()
    streams = server.control.streams
    deadline = time.monotonic() + 10
    while streams._open:
        assert time.monotonic() < deadline, "the stream goes on without its client"
        time.sleep(0.02)


def test_followers_beyond_the_bound_are_throttled_and_all_end_with_the_server(server: ControlServer):
    server.control.streams._limit = 2
    followed = [begin(server, "GET", f"/logs?runtimeId={RUNTIME}&follow=true") for _ in range(2)]
    status, told = call(server, "GET", f"/logs?runtimeId={RUNTIME}&follow=true")
    assert (status, told["message"]) == (429, "2 logs are being followed already")
    server._loop.call_soon_threadsafe(server.control.streams.close)
    for connection, answer in followed:
        assert answer.read() == b""
        connection.close()


# -- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_is_created_used_disabled_and_deleted(server: ControlServer):
    status, made = call(server, "POST", "/keys")
    assert status == 200
    key = AccessKey(made["accessKeyId"], ACCOUNT, made["secretAccessKey"])
    status, listed = call(server, "GET", "/keys", key)
    assert status == 200
    assert [one["status"] for one in listed["keys"]] == ["Active", "Active"]
    assert key.secret not in json.dumps(listed)
    assert call(server, "POST", f"/keys/{key.access_key_id}/disable")[1]["status"] == "Inactive"
    assert call(server, "GET", "/keys", key)[0] == 403
    assert [one["status"] for one in call(server, "GET", "/keys")[1]["keys"]] == ["Active", "Inactive"]
    assert call(server, "DELETE", f"/keys/{key.access_key_id}")[0] == 200
    assert call(server, "DELETE", f"/keys/{key.access_key_id}")[0] == 404
    assert len(call(server, "GET", "/keys")[1]["keys"]) == 1


def test_a_key_that_is_rotated_works_until_its_grace_is_over(server: ControlServer):
    old = server.key
    status, made = call(server, "POST", f"/keys/{old.access_key_id}/rotate?graceSeconds=600")
    assert status == 200
    assert made["replaces"]["accessKeyId"] == old.access_key_id
    assert datetime.fromisoformat(made["replaces"]["expiresAt"]) > server._now() + timedelta(seconds=590)
    new = AccessKey(made["accessKeyId"], ACCOUNT, made["secretAccessKey"])
    listed = call(server, "GET", "/keys", old)[1]["keys"]
    assert [(one["status"], one["disabledAt"]) for one in listed] == [("Active", None), ("Active", None)]
    assert [one["expiresAt"] for one in listed] == [made["replaces"]["expiresAt"], None]
    assert call(server, "POST", f"/keys/{old.access_key_id}/rotate")[0] == 409
    server.clock_error = timedelta(seconds=601)
    status, told = call(server, "GET", "/keys", old)
    assert (status, told["message"]) == (403, "The security token included in the request is invalid.")
    assert [one["status"] for one in call(server, "GET", "/keys", new)[1]["keys"]] == ["Inactive", "Active"]


def test_a_key_that_is_rotated_can_be_ended_at_once(server: ControlServer):
    old = server.key
    made = call(server, "POST", f"/keys/{old.access_key_id}/rotate")[1]
    new = AccessKey(made["accessKeyId"], ACCOUNT, made["secretAccessKey"])
    assert call(server, "POST", f"/keys/{old.access_key_id}/disable", new)[0] == 200
    assert call(server, "GET", "/keys", old)[0] == 403
    made = call(server, "POST", f"/keys/{new.access_key_id}/rotate?graceSeconds=0", new)[1]
    assert call(server, "GET", "/keys", new)[0] == 403
    newest = AccessKey(made["accessKeyId"], ACCOUNT, made["secretAccessKey"])
    assert [one["status"] for one in call(server, "GET", "/keys", newest)[1]["keys"]] == 2 * ["Inactive"] + ["Active"]


def test_a_temporary_key_works_with_its_token_for_its_time(server: ControlServer):
    made = call(server, "POST", "/keys?expiresInSeconds=900")[1]
    key = AccessKey(made["accessKeyId"], ACCOUNT, made["secretAccessKey"], made["sessionToken"])
    assert key.access_key_id.startswith("ASIA")
    status, listed = call(server, "GET", "/keys", key)
    assert status == 200
    assert [(one["temporary"], one["expiresAt"]) for one in listed["keys"]] == [
        (False, None),
        (True, made["expiresAt"]),
    ]
    database = b"".join(file.read_bytes() for file in (server.data_dir / "db").iterdir())
    for secret in (made["secretAccessKey"], made["sessionToken"]):
        assert secret not in json.dumps(listed)
        assert secret.encode() not in database
    assert call(server, "GET", "/keys", dataclasses.replace(key, session_token=None))[0] == 403
    assert call(server, "GET", "/keys", dataclasses.replace(key, session_token="other"))[0] == 403
    server.clock_error = timedelta(seconds=901)
    status, told = call(server, "GET", "/keys", key)
    assert (status, told["message"]) == (403, "The security token included in the request is expired")
    server.clock_error = timedelta(days=2)
    call(server, "POST", "/keys?expiresInSeconds=900")
    assert key.access_key_id not in json.dumps(call(server, "GET", "/keys")[1])


def test_a_temporary_key_can_not_change_keys(server: ControlServer):
    made = call(server, "POST", "/keys?expiresInSeconds=900")[1]
    key = AccessKey(made["accessKeyId"], ACCOUNT, made["secretAccessKey"], made["sessionToken"])
    own = f"/keys/{server.key.access_key_id}"
    for method, path in (("POST", "/keys"), ("POST", f"{own}/rotate"), ("POST", f"{own}/disable"), ("DELETE", own)):
        status, told = call(server, method, path, key)
        assert status == 403
        assert "temporary key" in told["message"]


@pytest.mark.parametrize("query", ["expiresInSeconds=899", "expiresInSeconds=129601", "expiresInSeconds=", "grace=1"])
def test_a_lifetime_beyond_its_bounds_is_refused_by_name(server: ControlServer, query: str):
    status, told = call(server, "POST", f"/keys?{query}")
    assert (status, told["fieldList"][0]["name"]) == (400, query.partition("=")[0])


def test_the_last_usable_key_stays(server: ControlServer):
    target = f"/keys/{server.key.access_key_id}"
    for method, path in (("POST", f"{target}/disable"), ("DELETE", target)):
        status, told = call(server, method, path)
        assert status == 409
        assert "last access key" in told["message"]
    assert call(server, "GET", "/keys")[0] == 200


def test_another_accounts_key_is_not_found(server: ControlServer):
    other = server.control.keys.issue(dataclasses.replace(HERE, account="444455556666"))
    assert call(server, "DELETE", f"/keys/{other.access_key_id}")[0] == 404
    assert call(server, "GET", "/keys", other)[0] == 200
