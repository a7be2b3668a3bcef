"""Access keys for operators: list, create, rotate, disable, delete.

Invariant: a secret is in one answer only, that of its creation; an account always has a key that has no end.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final

from anyio import to_thread

from freehold.auth.keys import TEMPORARY_PREFIX
from freehold.control.feed import Feed
from freehold.control.keys import StoredKeys
from freehold.control.operator_queries import Query
from freehold.domain.errors import NotFound
from freehold.store.base import AccessKeyRow, Scope

Act = Callable[[StoredKeys, Feed, Scope, str], Awaitable[dict[str, Any]]]
LIFETIMES_S: Final = (900, 129_600)
"""Of temporary keys, as STS has them for GetSessionToken."""
DEFAULT_GRACE_S: Final = 86_400
MAX_GRACE_S: Final = 90 * 86_400
_ID = re.compile(r"[A-Z0-9]{16,128}")


async def listed(keys: StoredKeys, scope: Scope, now: datetime) -> dict[str, Any]:
    """Every key of the account, the oldest first."""
    rows = await to_thread.run_sync(keys.rows, scope)
    return {"keys": [_document(row, now) for row in rows]}


async def create(keys: StoredKeys, scope: Scope, query: Query) -> dict[str, Any]:
    """A new key, with its secret; a temporary one, if a lifetime is given."""
    lifetime_s = query.number("expiresInSeconds", at_least=LIFETIMES_S[0], at_most=LIFETIMES_S[1])
    if lifetime_s is None:
        key = await to_thread.run_sync(keys.issue, scope)
        return {"accessKeyId": key.access_key_id, "secretAccessKey": key.secret, "status": "Active"}
    key = await to_thread.run_sync(keys.issue_temporary, scope, timedelta(seconds=lifetime_s))
    return {
        "accessKeyId": key.access_key_id,
        "secretAccessKey": key.secret,
        "sessionToken": key.session_token,
        "status": "Active",
        "expiresAt": key.expires_at,
    }


async def rotate(keys: StoredKeys, feed: Feed, scope: Scope, key_id: str, query: Query) -> dict[str, Any]:
    """A new key, with its secret; the one that it replaces is taken for as long as the grace.

    Raises NotFound, and Conflict for a key that ends already.
    """
    grace_s = query.number("graceSeconds", at_most=MAX_GRACE_S)
    grace = timedelta(seconds=DEFAULT_GRACE_S if grace_s is None else grace_s)
    await to_thread.run_sync(_check, keys, scope, key_id)
    key, until = await to_thread.run_sync(keys.rotate, key_id, scope, grace)
    await feed.changed(access_key_ids=[key_id])
    return {
        "accessKeyId": key.access_key_id,
        "secretAccessKey": key.secret,
        "status": "Active",
        "replaces": {"accessKeyId": key_id, "expiresAt": until},
    }


async def disable(keys: StoredKeys, feed: Feed, scope: Scope, key_id: str) -> dict[str, Any]:
    """Refuse the key everywhere before the answer. Raises NotFound, Conflict for the last usable one."""
    await to_thread.run_sync(_check, keys, scope, key_id)
    await to_thread.run_sync(keys.disable, key_id)
    await feed.changed(access_key_ids=[key_id])
    return {"accessKeyId": key_id, "status": "Inactive"}


async def delete(keys: StoredKeys, feed: Feed, scope: Scope, key_id: str) -> dict[str, Any]:
    """As `disable`, and forget the key."""
    await to_thread.run_sync(_check, keys, scope, key_id)
    await to_thread.run_sync(keys.delete, key_id)
    await feed.changed(access_key_ids=[key_id])
    return {"accessKeyId": key_id}


def _check(keys: StoredKeys, scope: Scope, key_id: str) -> None:
    """Raise NotFound unless the key is the account's."""
    if not _ID.fullmatch(key_id) or all(row.access_key_id != key_id for row in keys.rows(scope)):
        raise NotFound("No such access key")


def _document(row: AccessKeyRow, now: datetime) -> dict[str, Any]:
    is_over = row.disabled_at is not None and row.disabled_at <= now
    return {
        "accessKeyId": row.access_key_id,
        "temporary": row.access_key_id.startswith(TEMPORARY_PREFIX),
        "status": "Inactive" if is_over else "Active",
        "createdAt": row.created_at,
        "expiresAt": None if is_over else row.disabled_at,
        "disabledAt": row.disabled_at if is_over else None,
    }
