"""Who is calling: the result of authentication, and whose sessions are whose."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller."""

    account: str
    arn: str
    """For messages: `arn:aws:iam::<account>:root` and the like."""
    owner: str
    """What sessions belong to: the account under SigV4, (issuer, subject) under JWT. An opaque key."""
    by_token: bool = False
    """Whether a bearer token said so, and no signature."""


def account_owner(account: str) -> str:
    """The owner of sessions that SigV4 callers of `account` make."""
    return f"account:{account}"


def token_owner(issuer: str, kind: str, value: str) -> str:
    """The owner of sessions that bearers of `issuer`'s tokens make, told apart by a claim: `kind` names which.

    No two (issuer, kind, value) have the same owner, whatever characters are in them: each part is hashed with its
    length. Lone surrogates, which JSON can hold, are kept apart, too.
    """
    digest = hashlib.sha256()
    for part in (issuer, kind, value):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8))
        digest.update(data)
    return f"jwt:{digest.hexdigest()}"
