"""Answers the other processes' questions about routes, contracts, keys and launches, and tells them what changed.

Not for deciding any of it: the store knows. Invariant: once `changed` (or a `changing` block) has ended, no gateway
worker that is connected remembers the old answer; one that does not confirm in time is disconnected, and so forgets
before it asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import structlog
from anyio import to_thread

from freehold import ipc
from freehold.auth.keys import KeySource
from freehold.control import authorizers, configuration, protocol
from freehold.control.key_sets import KeySets, NoKeys
from freehold.control.reach import PUBLIC_INTERNET, Reach
from freehold.domain.errors import AccessDenied, NotFound, RetryableConflict, Unavailable
from freehold.domain.launch import LaunchSpec
from freehold.domain.runtimes import DEFAULT_ENDPOINT
from freehold.observe.counts import PAGE_SIZE
from freehold.observe.spans import SpanRecord
from freehold.store.base import RuntimeKey, Scope, Store

CONFIRM_TIMEOUT_S: Final = 2.0
"""How long a gateway worker may take to confirm that it has forgotten."""
_MAX_READS: Final = 20

LoadLaunch = Callable[[RuntimeKey, int], Awaitable[LaunchSpec]]
"""How a version is started. Raises NotFound, StartFailed, Unavailable. Default: as it was recorded."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


class _Read:
    """One question under way; stale when what it is about changed meanwhile."""

    __slots__ = ("about", "stale")

    def __init__(self, about: str) -> None:
        self.about = about
        self.stale = False


class Feed:
    """Use from one event loop; `serve` runs until cancelled."""

    def __init__(
        self,
        store: Store,
        keys: KeySource,
        *,
        region: str,
        data_plane: dict[str, Any],
        key_sets: KeySets | None = None,
        reach: Reach = PUBLIC_INTERNET,
        load_launch: LoadLaunch | None = None,
        confirm_timeout_s: float = CONFIRM_TIMEOUT_S,
        on_spans: Callable[[list[SpanRecord]], None] | None = None,
    ) -> None:
        """`on_spans` gets the spans that gateway workers have ended. Without `key_sets` nobody's tokens are good."""
        self._on_spans = on_spans
        self._store = store
        self._keys = keys
        self._region = region
        self._key_sets = key_sets
        self._reach = reach
        self._welcome = protocol.Welcome(data_plane)
        self._load_launch = load_launch or self._recorded_launch
        self._confirm_timeout_s = confirm_timeout_s
        self._workers: dict[ipc.Peer, int] = {}
        self._reads: set[_Read] = set()
        self._telling: dict[str, list[asyncio.Event]] = {}

    async def serve(self, listener: socket.socket) -> None:
        """Answer peers on `listener` until cancelled."""
        await ipc.serve(listener, protocol.REQUESTS, handler=self._answer, on_close=self._gone)

    # -- telling --------------------------------------------------------------------------------------------------

    async def changed(self, *, runtime_ids: Iterable[str] = (), access_key_ids: Iterable[str] = ()) -> None:
        """Have every gateway worker forget these; returns when all have, or were disconnected."""
        ids, keys = list(runtime_ids), list(access_key_ids)
        about = {*ids, *keys}
        for read in self._reads:
            if read.about in about:
                read.stale = True
        await self._tell_all(protocol.Changed(runtime_ids=ids, access_key_ids=keys))

    async def _tell_all(self, message: protocol.Changed) -> None:
        peers = list(self._workers)
        if peers:
            await asyncio.gather(*(self._tell(peer, message) for peer in peers))

    async def key_set_changed(self, name: str) -> None:
        """Have every gateway worker ask for this key set again before it next uses it."""
        await self._tell_all(protocol.Changed(key_sets=[name]))

    @contextlib.asynccontextmanager
    async def changing(self, runtime_id: str) -> AsyncGenerator[None]:
        """Around a change of a runtime's routes: `settled` waits until the change is known everywhere."""
        done = asyncio.Event()
        self._telling.setdefault(runtime_id, []).append(done)
        try:
            yield
        finally:
            try:
                # Even a change that was cancelled half-way may have been made.
                await asyncio.shield(asyncio.ensure_future(self.changed(runtime_ids=[runtime_id])))
            finally:
                done.set()
                waiting = self._telling[runtime_id]
                waiting.remove(done)
                if not waiting:
                    del self._telling[runtime_id]

    async def settled(self, runtime_ids: Iterable[str]) -> None:
        """Wait until changes of these runtimes that are being told have been told (bounded by the telling)."""
        if not self._telling:
            return
        for runtime_id in runtime_ids:
            for done in list(self._telling.get(runtime_id, ())):
                await done.wait()

    # -- asking ---------------------------------------------------------------------------------------------------

    async def counts(self) -> dict[str, list[protocol.GatewayCounts]]:
        """What each gateway worker has counted, by the name of its process; who does not answer is left out."""
        workers = sorted(self._workers.items(), key=lambda item: item[1])
        told = await asyncio.gather(*(self._counts_of(peer, number) for peer, number in workers))
        return {f"gateway-{number}": pages for (_, number), pages in zip(workers, told, strict=True) if pages}

    async def _counts_of(self, peer: ipc.Peer, number: int) -> list[protocol.GatewayCounts]:
        pages: list[protocol.GatewayCounts] = []
        try:
            while not pages or len(pages[-1].series) == PAGE_SIZE:
                told, fds = await peer.call(
                    protocol.GetCounts(len(pages) * PAGE_SIZE), timeout_s=self._confirm_timeout_s
                )
                ipc.close_all(fds)
                if not isinstance(told, protocol.GatewayCounts):
                    break
                pages.append(told)
        except (Unavailable, TimeoutError) as error:
            log.warning("feed.worker_not_counted", worker=number, error=type(error).__name__)
            return []
        return pages

    async def _tell(self, peer: ipc.Peer, message: protocol.Changed) -> None:
        try:
            await peer.call(message, timeout_s=self._confirm_timeout_s)
        except Exception as error:
            # Whatever went wrong: a worker that may remember is cut off.
            if not peer.closed:
                log.warning("feed.worker_cut_off", worker=self._workers.get(peer), error=type(error).__name__)
                peer.close()

    def _gone(self, peer: ipc.Peer) -> None:
        self._workers.pop(peer, None)

    # -- answering ------------------------------------------------------------------------------------------------

    async def _answer(self, peer: ipc.Peer, body: Any, fds: list[int]) -> ipc.Body:
        ipc.close_all(fds)
        match body:
            case protocol.Hello():
                self._workers[peer] = body.worker
                return self._welcome
            case protocol.GetLaunch():
                return await self._launch(body)
            case _:
                pass
        if peer not in self._workers:
            # It would not hear of changes.
            raise AccessDenied("a gateway worker says hello before it asks")
        match body:
            case protocol.ResolveEndpoint():
                return await self._fresh(body.runtime_id, lambda: to_thread.run_sync(self._resolve, body))
            case protocol.GetContract():
                return await self._fresh(body.runtime_id, lambda: to_thread.run_sync(self._contract, body))
            case protocol.GetKeySet():
                return await self._key_set(body)
            case protocol.SpansEnded():
                if self._on_spans is not None:
                    self._on_spans(body.spans)
                return ipc.Done()
            case protocol.GetAccessKey():
                return await self._fresh(body.access_key_id, lambda: self._access_key(body.access_key_id))
            case _:
                raise AccessDenied(f"control does not answer {type(body).__name__}")

    async def _fresh(self, about: str, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` finds; it reads again if a change was told while it ran.

        The answer is sent in the same step of the loop in which this returns, so it goes out before the next
        Changed does, and is forgotten with it.
        """
        for _ in range(_MAX_READS):
            mark = _Read(about)
            self._reads.add(mark)
            try:
                found = await read()
            except NotFound:
                if not mark.stale:
                    raise
                continue
            finally:
                self._reads.discard(mark)
            if not mark.stale:
                return found
        raise RetryableConflict("It is changing just now, please retry")

    def _key(self, account: str, runtime_id: str) -> RuntimeKey:
        return RuntimeKey(Scope(account, self._region), runtime_id)

    def _resolve(self, ask: protocol.ResolveEndpoint) -> protocol.EndpointRoute:
        name = ask.qualifier or DEFAULT_ENDPOINT
        endpoint = self._store.resolve_endpoint(self._key(ask.account, ask.runtime_id), name)
        if endpoint is None or endpoint.live_version is None:
            raise NotFound(f"No endpoint or agent found with qualifier '{name}' for agent '{ask.runtime_id}'")
        return protocol.EndpointRoute(ask.account, ask.runtime_id, endpoint.name, endpoint.live_version)

    def _contract(self, ask: protocol.GetContract) -> protocol.Contract:
        kept = self._store.get_contract(self._key(ask.account, ask.runtime_id), ask.version)
        if kept is None:
            raise NotFound(f"No version {ask.version} of agent runtime {ask.runtime_id}")
        server_protocol, port = configuration.protocol_of(kept)
        return protocol.Contract(
            ask.version,
            server_protocol,
            port,
            header_allowlist=configuration.forwarded_headers(kept),
            path=configuration.path_of(kept),
            authorizer=authorizers.authorizer_of(kept, self._reach, account=ask.account, runtime_id=ask.runtime_id),
        )

    async def _key_set(self, ask: protocol.GetKeySet) -> protocol.KeySet | protocol.NoKeySet:
        kept = await to_thread.run_sync(self._store.get_contract, self._key(ask.account, ask.runtime_id), ask.version)
        authorizer = None if kept is None else authorizers.of(kept)
        if authorizer is None or self._key_sets is None:
            raise NotFound(f"Version {ask.version} of agent runtime {ask.runtime_id} has no authorizer")
        source = authorizers.key_source_of(authorizer, self._reach)
        try:
            found = await self._key_sets.get(source, lacking=ask.lacking)
        except NoKeys:
            return protocol.NoKeySet()
        return protocol.KeySet(
            source.name,
            found.issuer,
            found.generation,
            list(found.keys),
            found.usable_for_s,
            found.refresh_in_s,
            found.renewal_in_s,
        )

    async def _launch(self, ask: protocol.GetLaunch) -> protocol.Launch:
        return protocol.Launch(await self._load_launch(self._key(ask.account, ask.runtime_id), ask.version))

    async def _recorded_launch(self, key: RuntimeKey, version: int) -> LaunchSpec:
        spec = await to_thread.run_sync(self._store.get_launch, key, version)
        if spec is None:
            raise NotFound(f"No version {version} of agent runtime {key.runtime_id} can be started")
        return spec

    async def _access_key(self, access_key_id: str) -> protocol.AccessKey:
        key = await self._keys.get(access_key_id)
        if key is None:
            raise NotFound("No such access key")
        return protocol.AccessKey(key.access_key_id, key.account, key.secret, key.session_token, key.expires_at)
