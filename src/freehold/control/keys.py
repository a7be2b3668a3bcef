"""The installation's access keys: minted, sealed into the store, and found again by verifiers.

For: this process's own verifier and, through the feed, the gateway workers'. Invariant: a secret is in the clear in
memory only; a disabled key is found no more once `disable` has returned, and one with an end says when that is.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import anyio.to_thread

from freehold.auth.keys import TEMPORARY_PREFIX, AccessKey, mint_access_key, mint_temporary_key
from freehold.store.base import AccessKeyRow, Scope, Store
from freehold.store.vault import Vault

MAX_CACHED: Final = 1024
_EXPIRED_KEPT: Final = timedelta(days=1)
"""For which temporary keys are still listed."""


class StoredKeys:
    """A `KeySource` over the store. `get` belongs to one event loop; the rest is synchronous, for worker threads."""

    def __init__(self, store: Store, vault: Vault, *, now: Callable[[], datetime]) -> None:
        self._store = store
        self._vault = vault
        self._now = now
        self._cache: dict[str, AccessKey] = {}
        self._disabled = 0

    def known(self, access_key_id: str) -> AccessKey | None:
        """See auth.keys.KeySource."""
        return self._cache.get(access_key_id)

    async def get(self, access_key_id: str) -> AccessKey | None:
        """The key, or None when it is unknown or disabled. A temporary one is found beyond its end, too."""
        known = self._cache.get(access_key_id)
        if known is not None:
            return known
        disabled = self._disabled
        key = await anyio.to_thread.run_sync(self._read, access_key_id)
        # What was read before a key was disabled is not to be kept.
        if key is not None and disabled == self._disabled:
            if len(self._cache) >= MAX_CACHED:
                del self._cache[next(iter(self._cache))]
            self._cache[access_key_id] = key
        return key

    def issue(self, scope: Scope) -> AccessKey:
        """A new key of the account, stored."""
        key = mint_access_key(scope.account)
        self._store.add_access_key(self._row(key, scope))
        return key

    def issue_temporary(self, scope: Scope, lifetime: timedelta) -> AccessKey:
        """A new key with a session token, stored; those that ended long ago are removed."""
        now = self._now()
        key = mint_temporary_key(scope.account, expires_at=now + lifetime)
        self._store.forget_access_keys(TEMPORARY_PREFIX, disabled_before=now - _EXPIRED_KEPT)
        self._store.add_access_key(self._row(key, scope))
        return key

    def rotate(self, access_key_id: str, scope: Scope, grace: timedelta) -> tuple[AccessKey, datetime]:
        """A new key of the account in the place of another, and until when that one is still taken.

        Afterwards `Feed.changed` tells the other processes. Raises NotFound, and Conflict when it ends already.
        """
        until = self._now() + grace
        key = mint_access_key(scope.account)
        self._store.replace_access_key(access_key_id, self._row(key, scope), until=until)
        self._forget(access_key_id)
        return key, until

    def first_key(self, scope: Scope) -> AccessKey:
        """The oldest usable key of the account; the first start of an installation makes it."""
        for row in self._store.list_access_keys():
            if row.scope == scope and row.disabled_at is None:
                return self._open(row)
        return self.issue(scope)

    def rows(self, scope: Scope) -> list[AccessKeyRow]:
        """The account's keys, the oldest first; secrets stay sealed."""
        return [row for row in self._store.list_access_keys() if row.scope == scope]

    def disable(self, access_key_id: str) -> None:
        """Refuse the key from now on; afterwards `Feed.changed` tells the other processes.

        Raises NotFound, and Conflict for the last usable key.
        """
        self._store.disable_access_key(access_key_id, now=self._now())
        self._forget(access_key_id)

    def delete(self, access_key_id: str) -> None:
        """Disable the key and remove it; as `disable`."""
        self._store.delete_access_key(access_key_id)
        self._forget(access_key_id)

    def _forget(self, access_key_id: str) -> None:
        self._disabled += 1
        self._cache.pop(access_key_id, None)

    def _row(self, key: AccessKey, scope: Scope) -> AccessKeyRow:
        # A temporary key's token is as secret as its secret, and is sealed with it.
        secret = key.secret if key.session_token is None else f"{key.secret} {key.session_token}"
        sealed = self._vault.seal(secret, name=key.access_key_id)
        return AccessKeyRow(key.access_key_id, scope, sealed, self._now(), disabled_at=key.expires_at)

    def _read(self, access_key_id: str) -> AccessKey | None:
        row = self._store.get_access_key(access_key_id)
        if row is None:
            return None
        key = self._open(row)
        # Only of a temporary key its owner is told that its time is over.
        is_over = row.disabled_at is not None and row.disabled_at <= self._now()
        return None if is_over and key.session_token is None else key

    def _open(self, row: AccessKeyRow) -> AccessKey:
        secret, _, token = self._vault.unseal(row.sealed_secret, name=row.access_key_id).partition(" ")
        return AccessKey(row.access_key_id, row.scope.account, secret, token or None, row.disabled_at)
