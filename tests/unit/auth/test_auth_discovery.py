"""Discovery documents: what is taken from them, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from freehold.auth.discovery import Provider, UnusableDocument, read_document


def document(**said: Any) -> bytes:
    return json.dumps({"issuer": "https://id.example", "jwks_uri": "https://id.example/keys", **said}).encode()


def test_issuer_and_address_of_keys_are_taken_as_they_are_written():
    assert read_document(document(issuer="https://id.example/", token_endpoint="x")) == Provider(
        "https://id.example/", "https://id.example/keys"
    )


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"issuer": "https://a", "issuer": "https://b", "jwks_uri": "https://c"}',
        document(issuer=None),
        document(issuer=""),
        document(issuer=["https://id.example"]),
        document(issuer="https://id.example\n"),
        document(issuer="x" * 2049),
        document(jwks_uri=None),
        document(jwks_uri=7),
    ],
)
def test_what_is_no_discovery_document_is_refused(said: bytes):
    with pytest.raises(UnusableDocument):
        read_document(said)
