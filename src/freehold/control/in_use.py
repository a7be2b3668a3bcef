"""Which bundles are in use: by versions that exist, and by sessions that run, whose version may have been deleted.

For: the collection of bundles (`artifacts.cache`). Invariant: an answer names every bundle that is in use, or there is
none.
"""

from __future__ import annotations

from typing import Final

from anyio import to_thread

from freehold.control.warden_link import Warden
from freehold.domain.errors import Unavailable
from freehold.store.base import RuntimeKey, Scope, Store
from freehold.warden.protocol import SessionInfo

_PAGE: Final = 100


class InUse:
    """Call it inside the event loop that talks to the warden."""

    def __init__(self, store: Store, warden: Warden, *, region: str) -> None:
        self._store = store
        self._warden = warden
        self._region = region

    async def __call__(self) -> frozenset[str]:
        """The digests in use. Raises Unavailable when warden or store can't say."""
        # In this order: a version that was deleted before the first step can only be run by sessions that the second
        # step sees, since none is started any more.
        kept = await to_thread.run_sync(self._store.digests)
        return kept | await self._running()

    async def _running(self) -> frozenset[str]:
        versions: set[tuple[RuntimeKey, int]] = set()
        after = 0
        while page := await self._warden.sessions(after=after, limit=_PAGE):
            versions |= {self._version(session) for session in page}
            after = page[-1].generation
        return await to_thread.run_sync(self._digests_of, versions)

    def _version(self, session: SessionInfo) -> tuple[RuntimeKey, int]:
        return RuntimeKey(Scope(session.key.account, self._region), session.key.runtime_id), session.version

    def _digests_of(self, versions: set[tuple[RuntimeKey, int]]) -> frozenset[str]:
        found: set[str] = set()
        for key, version in versions:
            digest = self._store.get_digest(key, version)
            if digest is None:
                # It is being removed with its runtime, or starts and fails: it will not be there for long.
                raise Unavailable(f"A session runs version {version} of {key.runtime_id}, whose bundle is not known")
            found.add(digest)
        return frozenset(found)
