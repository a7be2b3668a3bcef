"""The query of an operator's request, read strictly.

Invariant: a member that is not known, is there twice or breaks its rule is refused by name; nothing is ignored.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl

from freehold.domain import sessions
from freehold.domain.errors import FieldProblem, ValidationFailed

RUNTIME_ID: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,99}-[a-zA-Z0-9]{10}")
"""As in the service model; safe as a path name."""
ENDPOINT: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,47}")
MAX_GENERATION: Final = 2**63 - 1


class Query:
    """The members of one query; `allowed` are those that there may be."""

    def __init__(self, raw: bytes, *allowed: str) -> None:
        self._members: dict[str, str] = {}
        for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
            if name not in allowed:
                known = ", ".join(allowed) or "none"
                raise refusal(name[:128], f"not a member of this query, which has: {known}")
            if name in self._members:
                raise refusal(name, "given more than once")
            self._members[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def text(self, name: str) -> str | None:
        return self._members.get(name)

    def number(self, name: str, *, at_least: int = 0, at_most: int = MAX_GENERATION) -> int | None:
        """A decimal number, if it is there. Raises ValidationFailed."""
        text = self._members.get(name)
        return None if text is None else number(name, text, at_least=at_least, at_most=at_most)

    def flag(self, name: str) -> bool:
        """Whether it says `true`; it may say `false`."""
        text = self._members.get(name, "false")
        if text not in ("true", "false"):
            raise refusal(name, "must be true or false")
        return text == "true"

    def instant(self, name: str) -> datetime | None:
        """An ISO 8601 instant with its offset from UTC."""
        text = self._members.get(name)
        if text is None:
            return None
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            found = None
        if found is None or found.tzinfo is None:
            raise refusal(name, "must be an instant such as 2026-01-31T12:00:00Z")
        try:
            return found.astimezone(UTC)
        except OverflowError:
            raise refusal(name, "is out of range") from None

    def runtime_id(self, name: str = "runtimeId") -> str | None:
        text = self._members.get(name)
        if text is not None and not RUNTIME_ID.fullmatch(text):
            raise refusal(name, "must be the id of an agent runtime: <name>-<10 letters or digits>")
        return text

    def endpoint(self, name: str = "endpoint") -> str | None:
        text = self._members.get(name)
        if text is not None and not ENDPOINT.fullmatch(text):
            raise refusal(name, "must be the name of an endpoint")
        return text

    def session_id(self, name: str = "sessionId") -> str | None:
        text = self._members.get(name)
        if text is not None and not sessions.is_session_id(text):
            raise refusal(name, "must be a session id of 33 to 256 characters")
        return text


def number(name: str, text: str, *, at_least: int = 0, at_most: int = MAX_GENERATION) -> int:
    """A decimal number. Raises ValidationFailed."""
    if text.isascii() and text.isdecimal() and len(text) <= 19 and at_least <= int(text) <= at_most:
        return int(text)
    rule = "must be a decimal number" if at_most == MAX_GENERATION else f"must be a number from {at_least} to {at_most}"
    raise refusal(name, rule)


def refusal(name: str, rule: str) -> ValidationFailed:
    return ValidationFailed(f"{name} {rule}", fields=(FieldProblem(name, rule),))
