"""Who is calling: the result of authentication, and whose sessions are whose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller."""

    account: str
    arn: str
    """For messages: `arn:aws:iam::<account>:root` and the like."""
    owner: str
    """What sessions belong to: the account under SigV4, (issuer, subject) under JWT. An opaque key."""


def account_owner(account: str) -> str:
    """The owner of sessions that SigV4 callers of `account` make."""
    return f"account:{account}"
