"""Page tokens."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.control.paging import Pages
from freehold.domain.errors import ValidationFailed
from freehold.store.base import Position, Scope

HERE = Scope("111122223333", "eu-central-1")
POSITION = Position(datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC), "agent-0123456789")
PAGES = Pages(b"k" * 32, "runtimes")


def test_a_token_leads_back_to_its_position():
    assert PAGES.position(HERE, PAGES.token(HERE, POSITION)) == POSITION


@pytest.mark.parametrize(
    "reader",
    [
        (Pages(b"x" * 32, "runtimes"), HERE),
        (Pages(b"k" * 32, "else"), HERE),
        (PAGES, Scope("444455556666", HERE.region)),
    ],
)
def test_a_token_of_another_installation_listing_or_account_is_refused(reader: tuple[Pages, Scope]):
    pages, scope = reader
    with pytest.raises(ValidationFailed, match="nextToken"):
        pages.position(scope, PAGES.token(HERE, POSITION))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_token_changed_anywhere_is_refused(at: int, flip: int):
    token = PAGES.token(HERE, POSITION)
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[at % len(raw)] ^= flip
    with pytest.raises(ValidationFailed):
        PAGES.position(HERE, base64.urlsafe_b64encode(raw).decode().rstrip("="))


@given(st.text(max_size=200))
def test_no_text_but_a_token_is_taken(text: str):
    with pytest.raises(ValidationFailed):
        PAGES.position(HERE, text)
