"""Access keys for operators: list, create, disable, delete.

Invariant: a secret is in one answer only, that of its creation; an account always has a key that is not disabled.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import to_thread

from freehold.control.feed import Feed
from freehold.control.keys import StoredKeys
from freehold.domain.errors import NotFound
from freehold.store.base import AccessKeyRow, Scope

Act = Callable[[StoredKeys, Feed, Scope, str], Awaitable[dict[str, Any]]]
_ID = re.compile(r"[A-Z0-9]{16,128}")


async def listed(keys: StoredKeys, scope: Scope) -> dict[str, Any]:
    """Every key of the account, the oldest first."""
    rows = await to_thread.run_sync(keys.rows, scope)
    return {"keys": [_document(row) for row in rows]}


async def create(keys: StoredKeys, scope: Scope) -> dict[str, Any]:
    """A new key, with its secret."""
    key = await to_thread.run_sync(keys.issue, scope)
    return {"accessKeyId": key.access_key_id, "secretAccessKey": key.secret, "status": "Active"}


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


def _document(row: AccessKeyRow) -> dict[str, Any]:
    return {
        "accessKeyId": row.access_key_id,
        "status": "Active" if row.disabled_at is None else "Inactive",
        "createdAt": row.created_at,
        "disabledAt": row.disabled_at,
    }
