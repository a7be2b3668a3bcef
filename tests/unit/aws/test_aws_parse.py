"""Reading requests strictly: what each type takes, what it refuses, and that nothing else can happen."""

from __future__ import annotations

import base64
import contextlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from aws_parts import CONTROL, DATA, SERVICES, Maker, service
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.aws import timestamps
from freehold.aws.model import Member, Operation, Service, Shape, TimestampFormat
from freehold.aws.parse import MAX_DEPTH, Parser, Unparseable

TYPES = ("string", "integer", "long", "double", "boolean", "blob", "timestamp")
SESSION = b"x-amzn-bedrock-agentcore-runtime-session-id"


def make_probe() -> tuple[Service, Operation]:
    """An operation with one member of each kind, and one that holds itself."""
    shapes = {kind: Shape(kind, kind) for kind in TYPES}  # pyright: ignore[reportArgumentType]
    members = {kind: Member(kind, kind) for kind in TYPES}
    shapes["document"] = Shape("document", "structure", document=True)
    shapes["strings"] = Shape("strings", "list", element="string")
    shapes["numbers"] = Shape("numbers", "map", key="string", value="integer")
    members |= {name: Member(name, name) for name in ("document", "strings", "numbers")}
    members["inner"] = Member("In", "Inner")
    members["at"] = Member("timestamp", "at", location="querystring")
    members["count"] = Member("integer", "count", location="querystring")
    members["flag"] = Member("boolean", "flag", location="querystring")
    members["many"] = Member("strings", "many", location="querystring")
    members["since"] = Member("timestamp", "since", location="header")
    members["head"] = Member("string", "x-head", location="header")
    members["baggage"] = Member("string", "baggage", location="header")
    shapes["In"] = Shape("In", "structure", members=members)
    operation = Operation("Probe", "POST", "/probe", 200, input="In")
    return Service("probe", "1", "probe", {"Probe": operation}, shapes), operation


PROBE, OPERATION = make_probe()


def parse(body: bytes = b"", *, query: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None) -> dict[str, Any]:
    return Parser(PROBE).parse(OPERATION, {}, query, headers or [], body)


def parse_json(**members: Any) -> dict[str, Any]:
    return parse(json.dumps(members).encode())


def refused(body: bytes = b"", **more: Any) -> Unparseable:
    with pytest.raises(Unparseable) as refusal:
        parse(body, **more)
    assert refusal.value.reason == "CannotParse"
    assert refusal.value.fields
    return refusal.value


@pytest.mark.parametrize(
    ("member", "given_", "read"),
    [
        ("string", "", ""),
        ("string", "ä\u0000", "ä\u0000"),
        ("integer", -(2**31), -(2**31)),
        ("integer", 2**31 - 1, 2**31 - 1),
        ("long", 2**63 - 1, 2**63 - 1),
        ("double", 1, 1),
        ("double", 1.5, 1.5),
        ("boolean", False, False),
        ("blob", base64.b64encode(b"\xff\x00").decode(), b"\xff\x00"),
        ("timestamp", 1.5, datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)),
        ("strings", [], []),
        ("strings", ["a"], ["a"]),
        ("numbers", {"a": 1}, {"a": 1}),
        ("document", {"a": [None, 1, {}]}, {"a": [None, 1, {}]}),
        ("document", 5, 5),
    ],
)
def test_a_value_of_the_right_type_is_taken(member: str, given_: Any, read: Any):
    assert parse_json(**{member: given_}) == {member: read}


@pytest.mark.parametrize(
    ("member", "given_"),
    [
        ("string", 1),
        ("string", ["a"]),
        ("string", True),
        ("integer", True),
        ("integer", 1.0),
        ("integer", "1"),
        ("integer", 2**31),
        ("integer", -(2**31) - 1),
        ("long", 2**63),
        ("double", "1.0"),
        ("double", True),
        ("double", 10**400),
        ("boolean", 1),
        ("boolean", "true"),
        ("blob", "a"),
        ("blob", "ä"),
        ("blob", "YQ==\n"),
        ("blob", 1),
        ("timestamp", "2026-11-23T00:00:00Z"),
        ("timestamp", 1e300),
        ("timestamp", True),
        ("strings", "a"),
        ("strings", [None]),
        ("strings", [1]),
        ("strings", {"0": "a"}),
        ("numbers", {"a": None}),
        ("numbers", {"a": "1"}),
        ("numbers", []),
        ("Inner", []),
        ("Inner", "x"),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_members_name(member: str, given_: Any):
    refusal = refused(json.dumps({member: given_}).encode())
    assert refusal.fields[0][0].startswith(member.lower())


def test_names_lead_to_the_member_and_values_are_not_repeated():
    refusal = refused(b'{"Inner": {"Inner": {"strings": ["a", {"secret": 1}]}}}')
    assert refusal.fields == (("inner.inner.strings.2.member", "is not a string"),)
    assert refused(b'{"numbers": {"secret": "x"}}').fields[0][0] == "numbers.value"
    for body in (b'{"string": 12345678901}', b'{"blob": "secret!"}', b'{"timestamp": "secret"}'):
        assert "secret" not in str(refused(body))
        assert "12345678901" not in str(refused(body))


@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"[]", b'"a"', b"1", b"null", b"{} {}", b"{'a': 1}", b'{"integer": NaN}', b'{"double": Infinity}'),
        *(b'{"double": 1e999}', b'{"string": "\xff"}', b'{"string": "\\ud800"}', b"\xef\xbb\xbf{}", b"\x00", b" "),
        b'{"integer": ' + b"1" * 5000 + b"}",
    ],
)
def test_what_is_not_a_json_object_is_refused(body: bytes):
    refused(body)


def test_null_and_unknown_members_are_as_if_they_were_not_there():
    assert parse(b'{"string": null, "unknown": {"a": 1}, "Inner": {"integer": null}}') == {"inner": {}}
    assert parse(b"") == {}
    assert parse(b"{}") == {}


def test_of_a_key_that_is_there_twice_the_last_counts():
    assert parse(b'{"string": "a", "string": "b"}') == {"string": "b"}


def test_depth_is_bounded():
    def nested(levels: int) -> bytes:
        return b'{"Inner":' * levels + b"{}" + b"}" * levels

    parse(nested(MAX_DEPTH - 1))
    assert "nested deeper" in refused(nested(MAX_DEPTH)).message
    assert "nested deeper" in refused(nested(200_000)).message
    document = b'{"document":' + b"[" * 62 + b"]" * 62 + b"}"
    parse(document)
    assert "nested deeper" in refused(document.replace(b"[" * 62, b"[" * 65).replace(b"]" * 62, b"]" * 65)).message


# -- query and headers --------------------------------------------------------------------------------------------


def test_a_query_is_decoded_once_and_a_plus_is_a_plus():
    assert parse(query=b"many=a%2520b&many=c+d&many=%C3%A4&many") == {"many": ["a%20b", "c+d", "ä", ""]}
    assert parse(query=b"count=-5&flag=true&&unknown=1&at=2026-11-23T12:00:00Z") == {
        "count": -5,
        "flag": True,
        "at": datetime(2026, 11, 23, 12, tzinfo=UTC),
    }


@pytest.mark.parametrize(
    "query",
    [
        *(b"count=1&count=1", b"count=", b"count=1.0", b"count=1e3", b"count=%D9%A1", b"count=+1", b"count=2147483648"),
        *(b"flag=True", b"flag=1", b"many=%", b"many=%f", b"many=%zz", b"many=%ff", b"at=1", b"at=2026-11-23"),
        b"&".join([b"many=a"] * 1001),
        b"count=" + b"1" * 10_000,
    ],
)
def test_a_query_that_is_not_of_the_models_types_is_refused(query: bytes):
    refused(query=query)


def test_a_header_is_there_once_unless_http_lets_it_be_split():
    assert parse(headers=[(b"x-head", b"  a b ")]) == {"head": "a b"}
    refused(headers=[(b"x-head", b"a"), (b"x-head", b"a")])
    assert parse(headers=[(b"baggage", b"a=1"), (b"baggage", b"b=2")]) == {"baggage": "a=1, b=2"}
    since = parse(headers=[(b"since", b"Mon, 23 Nov 2026 12:00:00 GMT")])
    assert since == {"since": datetime(2026, 11, 23, 12, tzinfo=UTC)}
    refused(headers=[(b"since", b"2026-11-23T12:00:00Z")])


def test_two_session_ids_are_refused():
    of = service(DATA)
    headers = [(SESSION, b"a" * 36), (SESSION, b"b" * 36)]
    with pytest.raises(Unparseable, match="runtimeSessionId"):
        Parser(of).parse(of.operations["InvokeAgentRuntime"], {"agentRuntimeArn": "x"}, b"", headers, None)


def test_a_payload_is_the_whole_body_whatever_it_is():
    of = service(DATA)
    invoke = of.operations["InvokeAgentRuntime"]
    for body in (b"", b"\xff", b"{"):
        assert Parser(of).parse(invoke, {"agentRuntimeArn": "x"}, b"", [], body)["payload"] == body
    assert "payload" not in Parser(of).parse(invoke, {"agentRuntimeArn": "x"}, b"", [], None)
    command = of.operations["InvokeAgentRuntimeCommand"]
    params = Parser(of).parse(command, {"agentRuntimeArn": "x"}, b"", [], b'{"command": "ls"}')
    assert params == {"agentRuntimeArn": "x", "body": {"command": "ls"}}
    with pytest.raises(Unparseable, match=r"body\.command"):
        Parser(of).parse(command, {"agentRuntimeArn": "x"}, b"", [], b'{"command": 1}')


# -- timestamps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["iso8601", "rfc822", "unixTimestamp"])
@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)))
def test_a_timestamp_is_read_as_it_was_written(fmt: TimestampFormat, naive: datetime):
    at = naive.replace(microsecond=naive.microsecond if fmt == "iso8601" else 0, tzinfo=timezone(timedelta(hours=2)))
    assert timestamps.read(timestamps.write(at, fmt), fmt) == at


@pytest.mark.parametrize(
    ("text", "fmt"),
    [
        *(("2026-02-30T00:00:00Z", "iso8601"), ("2026-11-23T24:00:00Z", "iso8601"), ("2026-11-23T12:00:00", "iso8601")),
        *(("2026-11-23 12:00:00Z", "iso8601"), ("2026-11-23T12:00:00+24:00", "iso8601"), ("", "iso8601")),
        *(("0001-01-01T00:00:00+23:00", "iso8601"), ("Mon, 31 Feb 2026 12:00:00 GMT", "rfc822"), ("", "rfc822")),
        *(("Mon, 23 Xxx 2026 12:00:00 GMT", "rfc822"), ("1e3", "unixTimestamp"), ("", "unixTimestamp")),
        *(("999999999999999", "unixTimestamp"), (float("nan"), "unixTimestamp"), (float("inf"), "unixTimestamp")),
    ],
)
def test_a_timestamp_that_is_none_is_refused(text: Any, fmt: TimestampFormat):
    with pytest.raises(ValueError):
        timestamps.read(text, fmt)


def test_an_instant_without_a_zone_is_not_written():
    with pytest.raises(ValueError, match="without a time zone"):
        timestamps.write(datetime(2026, 11, 23), "iso8601")


# -- anything -----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=60))
def test_no_bytes_are_more_than_unparseable(body: bytes, text: bytes):
    for headers in ([], [(b"x-head", text), (b"since", text), (b"x-head", text)], [(b"since", text)]):
        with contextlib.suppress(Unparseable):
            parse(body, query=text, headers=headers)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SERVICES), st.integers(0, 10_000), st.data())
def test_no_change_to_a_good_body_is_more_than_unparseable(name: str, seed: int, data: st.DataObject):
    of = service(name)
    operation = data.draw(st.sampled_from(sorted(of.operations.values(), key=lambda each: each.name)))
    document = json.loads(json.dumps(Maker(of, seed).structure(operation.input), default=str))
    target = document
    while isinstance(target, dict) and target:
        key = data.draw(st.sampled_from(sorted(target)))
        if not isinstance(target[key], dict) or data.draw(st.booleans()):
            target[key] = data.draw(JSON)
            break
        target = target[key]
    labels = {m.wire_name: "x" for m in of.shapes[operation.input].members.values() if m.location == "uri"}
    with contextlib.suppress(Unparseable):
        Parser(of).parse(operation, labels, b"", [], json.dumps(document).encode())


def test_the_control_planes_own_parameters_are_read():
    of = service(CONTROL)
    listing = Parser(of).parse(of.operations["ListAgentRuntimes"], {}, b"maxResults=5&nextToken=a%2Bb", [], b"")
    assert listing == {"maxResults": 5, "nextToken": "a+b"}
    getting = Parser(of).parse(of.operations["GetAgentRuntime"], {"agentRuntimeId": "a"}, b"version=2", [], b"")
    assert getting == {"agentRuntimeId": "a", "agentRuntimeVersion": "2"}
