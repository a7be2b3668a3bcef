"""The form of tokens: every text, however odd, is read as the strict readers of Python's library read it."""

from __future__ import annotations

import base64
import itertools
import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.auth import jwt_form
from freehold.auth.jwt_refusals import TokenUnreadable

ALPHABET = string.ascii_letters + string.digits + "-_"


def strictly(text: bytes) -> Any:
    """As Python's own reader has it, told to refuse what JSON does not have. Raises ValueError."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    return json.loads(text.decode("utf-8"), object_pairs_hook=members, parse_constant=refuse)


def outcome(read: Any, text: bytes) -> str:
    """What is read, types and order of members and signs of zeros included; or that nothing is."""
    try:
        return repr(read(text))
    except ValueError:
        return "refused"


ODD = [
    b"",
    b"{}",
    b'{"a":1}',
    b' {"a":1}',
    b'{"a":1}\n',
    b'{"a": 1}',
    b'{"a":1,"b":{"c":[1,"2",null,true,false]}}',
    b'{"a":1,"a":1}',
    b'{"a":1,"a":2}',
    b'{"a":1,"\\u0061":2}',
    b'{"a":{"b":1,"b":2}}',
    b'{"a":[{"b":1},{"b":1,"b":1}]}',
    b'{"b":1,"a":2}',
    b'{"":""}',
    b'{"a":1}{"a":1}',
    b'{"a":1},',
    b'{"a":1,}',
    b"{'a':1}",
    b'{"a":01}',
    b'{"a":+1}',
    b'{"a":-0}',
    b'{"a":-0.0}',
    b'{"a":1.0}',
    b'{"a":1.10}',
    b'{"a":0.1}',
    b'{"a":1e5}',
    b'{"a":1E5}',
    b'{"a":1e22}',
    b'{"a":1e400}',
    b'{"a":-1e400}',
    b'{"a":5e-324}',
    b'{"a":1e-400}',
    b'{"a":0.1000000000000000055511151231257827}',
    b'{"a":9007199254740993}',
    b'{"a":18446744073709551615}',
    b'{"a":18446744073709551616}',
    b'{"a":-9223372036854775809}',
    b'{"a":' + b"9" * 400 + b"}",
    b'{"a":' + b"9" * 5000 + b"}",
    b'{"a":NaN}',
    b'{"a":Infinity}',
    b'{"a":-Infinity}',
    b'{"a":nul}',
    b'{"a":"\\/"}',
    b'{"a":"\\u00e9"}',
    '{"a":"é"}'.encode(),
    '{"é":"😀"}'.encode(),
    b'{"a":"\\ud83d\\ude00"}',
    b'{"a":"\\ud800"}',
    b'{"a":"\\udc00x"}',
    b'{"a":"\xed\xa0\x80"}',
    b'{"a":"\xff"}',
    b'{"a":"\xc0\x80"}',
    b'{"a":"\x00"}',
    b'{"a":"\x1f"}',
    b'{"a":"\x7f"}',
    b'{"a":"\\u007f"}',
    b'{"a":"\\u0000"}',
    b'{"a":"\\x41"}',
    b'{"a":"\t"}',
    b'{"a":"\\t\\n\\r\\b\\f\\"\\\\"}',
    b'\xef\xbb\xbf{"a":1}',
    '{"a":1}'.encode("utf-16"),
    b'{"a":1}\x00',
    b"[]",
    b"null",
    b'"a"',
    b"1",
    b"[" * 50 + b"]" * 50,
    b"[" * 50_000,
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
]


@pytest.mark.parametrize("text", ODD, ids=lambda text: repr(text[:40]))
def test_an_odd_text_is_read_as_the_strict_reader_reads_it(text: bytes):
    def without_depth(data: bytes) -> Any:
        try:
            return strictly(data)
        except RecursionError:
            raise ValueError("too deep") from None

    assert outcome(jwt_form.parse_json, text) == outcome(without_depth, text)


class _Pairs(list[tuple[str, Any]]):
    """An object's members, also those that are there twice."""


_NAMES = st.sampled_from(["a", "b", "iss", "é", "", '"', "\\", "/", "\x7f", "\ud800"])
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters())),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(st.tuples(_NAMES, inner), max_size=4).map(_Pairs)),
    max_leaves=8,
)


def _written(value: Any, *, spaced: bool, escaped: bool) -> str:
    if isinstance(value, _Pairs):
        colon, comma = (": ", ", ") if spaced else (":", ",")
        members = (
            _written(name, spaced=spaced, escaped=escaped) + colon + _written(inner, spaced=spaced, escaped=escaped)
            for name, inner in value
        )
        return "{" + comma.join(members) + "}"
    if isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return "[" + ",".join(_written(inner, spaced=spaced, escaped=escaped) for inner in items) + "]"
    return json.dumps(value, ensure_ascii=escaped)


@given(_VALUES, st.booleans(), st.booleans())
def test_whatever_is_written_is_read_as_the_strict_reader_reads_it(value: Any, spaced: bool, escaped: bool):
    text = _written(value, spaced=spaced, escaped=escaped).encode("utf-8", "surrogatepass")
    assert outcome(jwt_form.parse_json, text) == outcome(strictly, text)


@given(st.text('{}[]",:\\u0123456789abcdefnlrtsE+-. \n', max_size=30))
def test_any_text_is_read_as_the_strict_reader_reads_it(text: str):
    assert outcome(jwt_form.parse_json, text.encode()) == outcome(strictly, text.encode())


# -- Base64 for URLs ----------------------------------------------------------------------------------------------


def decoded(part: bytes) -> bytes | None:
    try:
        return jwt_form.decode(part, "part")
    except TokenUnreadable:
        return None


def the_one_spelling(part: bytes) -> bytes | None:
    """What `part` says, if it is the spelling that an encoder gives it."""
    if not part:
        return None
    try:
        data = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except ValueError:
        return None
    return data if base64.urlsafe_b64encode(data).rstrip(b"=") == part else None


def test_each_byte_string_has_one_spelling():
    # Every pair of characters before, and every byte as the last: what is left over is decided by that alone.
    for before in ("", "A", "AB", "ABC", "ABCD", "-_A"):
        for last in range(256):
            part = before.encode() + bytes([last])
            assert decoded(part) == the_one_spelling(part), part


@given(st.text(ALPHABET + "+/= \n.\0é", max_size=12).map(str.encode))
def test_only_the_one_spelling_is_read(part: bytes):
    assert decoded(part) == the_one_spelling(part)


@given(st.binary(min_size=1, max_size=40))
def test_what_was_encoded_is_decoded(data: bytes):
    assert decoded(base64.urlsafe_b64encode(data).rstrip(b"=")) == data


def test_padding_and_the_standard_alphabet_are_no_part_of_it():
    for part, odd in itertools.product((b"QQ", b"QUI", b"QUJD"), (b"=", b"==", b"+", b"/", b" ", b"\n", b"\0")):
        assert decoded(part) is not None
        for at in range(len(part) + 1):
            assert decoded(part[:at] + odd + part[at:]) is None
