"""The keys of identity providers: fetched here alone, for all gateway workers, and kept for a stated time.

For: the feed, which hands key sets to gateway workers and tells them of new ones. Not for going to a URL (`fetching`),
for what a key must be (`auth.jwt_keys`) or for checking tokens. There is no timer: sets are refreshed as they are asked
for, and a worker asks again for those it uses. Invariant: a set is handed out for no longer than `Ages.max_s` after it
was last fetched, whoever is down meanwhile; and however many tokens come with keys that nobody knows, what they cause
is RENEWALS fetches, and one more each RENEWAL_INTERVAL_S.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from freehold.auth import discovery, jwt_keys
from freehold.auth.discovery import Provider, UnusableDocument
from freehold.auth.jwt_keys import UnusableKeySet
from freehold.auth.public_keys import PublicKey, generation_of
from freehold.control.authorizers import KeySource
from freehold.control.fetching import Fetcher, FetchFailed
from freehold.domain.errors import FreeholdError

RENEWALS: Final = 3
RENEWAL_INTERVAL_S: Final = 10.0
"""Fetches for the sake of a key that is not in the set, in vain, one after the other; then one each interval."""
PAUSES_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Between two tries to reach a provider that can't be reached."""
MAX_SOURCES: Final = 1000

ReadCertificate = Callable[[str, str], Awaitable[str]]
"""The PEM text in an object, given its bucket and key. Raises FetchFailed."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ages:
    """How old keys may get."""

    refresh_s: float = 300.0
    """From then on a set that is asked for is fetched again, beside its use; from twice that on it is waited for."""
    max_s: float = 7200.0
    """How long a set is used while its provider can't be reached, counted from the last time it could."""


DEFAULT_AGES: Final = Ages()


class NoKeys(Exception):
    """There are no keys that may be used, and none can be had just now. The message is for the log."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A key set, and for how long what is known of it is good."""

    issuer: str
    generation: str
    keys: tuple[PublicKey, ...]
    usable_for_s: float
    refresh_in_s: float
    renewal_in_s: float
    """Until asking for a newer one, for a key that it lacks, can be of use."""


class _State:
    """All that is known of one source."""

    __slots__ = ("attempt", "failures", "fetched_at", "generation", "keys", "provider", "retry_at", "spent", "spent_at")

    def __init__(self) -> None:
        self.provider: Provider | None = None
        self.keys: tuple[PublicKey, ...] = ()
        self.generation = ""
        """Empty before the first fetch."""
        self.fetched_at = 0.0
        self.attempt: asyncio.Task[str | None] | None = None
        """Resolves to why it failed."""
        self.failures = 0
        self.retry_at = 0.0
        self.spent = 0.0
        """Renewals in vain, fewer with time, as of `spent_at`."""
        self.spent_at = 0.0


class KeySets:
    """Use from one event loop. `clock` counts seconds; `on_change` is told the name of a source whose keys are new."""

    def __init__(
        self,
        fetcher: Fetcher,
        read_certificate: ReadCertificate | None,
        ages: Ages = DEFAULT_AGES,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_change: Callable[[str], Awaitable[None]] | None = None
        self._fetcher = fetcher
        self._read_certificate = read_certificate
        self._refresh_s = ages.refresh_s
        self._max_age_s = ages.max_s
        self._clock = clock
        self._states: OrderedDict[KeySource, _State] = OrderedDict()

    async def get(self, source: KeySource, *, lacking: str | None = None) -> Kept:
        """The keys of `source`. `lacking` is the generation that a token's key was not found in: a newer is wanted.

        Raises NoKeys.
        """
        state = self._state(source)
        age = self._age(state)
        if age > self._max_age_s:
            await self._attempt(source, state)
        elif lacking == state.generation:
            await self._renew(source, state)
        elif age > 2 * self._refresh_s:
            await self._attempt(source, state)
        elif age > self._refresh_s:
            self._begin(source, state)
        return self._kept(state)

    async def aclose(self) -> None:
        """Give up what is being fetched."""
        attempts = [state.attempt for state in self._states.values() if state.attempt is not None]
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)

    # -- what is kept ---------------------------------------------------------------------------------------------

    def _state(self, source: KeySource) -> _State:
        state = self._states.get(source)
        if state is None:
            state = self._states[source] = _State()
            for other in [name for name, kept in self._states.items() if kept.attempt is None]:
                if len(self._states) <= MAX_SOURCES:
                    break
                if other != source:
                    del self._states[other]
        self._states.move_to_end(source)
        return state

    def _age(self, state: _State) -> float:
        return self._clock() - state.fetched_at if state.generation else float("inf")

    def _kept(self, state: _State) -> Kept:
        age = self._age(state)
        if age > self._max_age_s or state.provider is None:
            raise NoKeys("the keys of the identity provider can't be had")
        now = self._clock()
        return Kept(
            issuer=state.provider.issuer,
            generation=state.generation,
            keys=state.keys,
            usable_for_s=self._max_age_s - age,
            refresh_in_s=max(self._refresh_s - age, state.retry_at - now, 0.0),
            renewal_in_s=max(self._until_renewal(state), state.retry_at - now, 0.0),
        )

    # -- fetching -------------------------------------------------------------------------------------------------

    async def _renew(self, source: KeySource, state: _State) -> None:
        """Fetch for a key that the set lacks, unless that has been in vain too often of late."""
        if state.attempt is not None:
            await self._attempt(source, state)
            return
        if self._until_renewal(state) > 0 or self._clock() < state.retry_at:
            return
        generation = state.generation
        state.spent = self._spent(state) + 1
        state.spent_at = self._clock()
        await self._attempt(source, state)
        if state.generation != generation:
            state.spent = max(0.0, state.spent - 1)

    def _spent(self, state: _State) -> float:
        return max(0.0, state.spent - (self._clock() - state.spent_at) / RENEWAL_INTERVAL_S)

    def _until_renewal(self, state: _State) -> float:
        return max(0.0, self._spent(state) - (RENEWALS - 1)) * RENEWAL_INTERVAL_S

    async def _attempt(self, source: KeySource, state: _State) -> None:
        """Wait for a fetch, one that is under way or a new one; or for none, when the last has just failed."""
        attempt = self._begin(source, state)
        if attempt is not None:
            # Who asked may give up; what was begun is of use to the next.
            await asyncio.shield(attempt)

    def _begin(self, source: KeySource, state: _State) -> asyncio.Task[str | None] | None:
        if state.attempt is None and self._clock() >= state.retry_at:
            state.attempt = asyncio.create_task(self._fetch(source, state))
        return state.attempt

    async def _fetch(self, source: KeySource, state: _State) -> str | None:
        try:
            changed = await self._fetch_into(source, state)
        except (FetchFailed, UnusableDocument, UnusableKeySet, FreeholdError) as error:
            return self._failed(source, state, str(error))
        except Exception:
            log.exception("key_sets.fetch_broke", discovery_url=source.discovery_url)
            return self._failed(source, state, "an internal error occurred")
        finally:
            state.attempt = None
        if changed and self.on_change is not None:
            await self.on_change(source.name)
        return None

    def _failed(self, source: KeySource, state: _State, reason: str) -> str:
        pause_s = PAUSES_S[min(state.failures, len(PAUSES_S) - 1)]
        state.failures += 1
        state.retry_at = self._clock() + pause_s
        log.warning(
            "key_sets.fetch_failed",
            discovery_url=source.discovery_url,
            reason=reason,
            failures=state.failures,
            keys_are_usable=self._age(state) <= self._max_age_s,
        )
        return reason

    async def _fetch_into(self, source: KeySource, state: _State) -> bool:
        """Whether there is a new generation."""
        places, authorities = dict(source.places), None
        if source.certificate is not None:
            if self._read_certificate is None:
                raise FetchFailed("this server reads no certificates")
            authorities = await self._read_certificate(*source.certificate)
        document = await self._fetcher.get(source.discovery_url, places=places, authorities=authorities)
        provider = discovery.read_document(document)
        published = await self._fetcher.get(provider.jwks_uri, places=places, authorities=authorities)
        keys, unusable = jwt_keys.read_key_set(published)
        generation = generation_of(provider.issuer, keys)
        changed = generation != state.generation
        is_first = not state.generation
        state.provider, state.keys, state.generation = provider, keys, generation
        state.fetched_at, state.failures, state.retry_at = self._clock(), 0, 0.0
        if changed:
            log.info(
                "key_sets.changed",
                discovery_url=source.discovery_url,
                issuer=provider.issuer,
                generation=generation[:12],
                keys=len(keys),
                unusable=unusable,
            )
        return changed and not is_first
