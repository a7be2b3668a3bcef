"""Control put together: the store's owner, which answers the control plane and feeds the other processes.

For: `compose`, which hands in what is concrete. Not for opening sockets or files. Invariant: the application is
served only while `run` runs, so that whatever a request sets going is taken up.
"""

from __future__ import annotations

import asyncio
import platform
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from freehold.artifacts.source import Source
from freehold.auth.sigv4 import Verifier
from freehold.control.app import App
from freehold.control.certificates import Certificates
from freehold.control.context import Context
from freehold.control.feed import Feed
from freehold.control.fetching import Fetcher
from freehold.control.key_sets import DEFAULT_AGES, Ages, KeySets
from freehold.control.keys import StoredKeys
from freehold.control.launches import Launches
from freehold.control.metrics import Metrics
from freehold.control.operator_api import OperatorApi, Uploads
from freehold.control.paging import Pages
from freehold.control.parity import HoldsBucket
from freehold.control.reach import PUBLIC_INTERNET, Reach
from freehold.control.reconciler import Preparer, Reconciler
from freehold.control.retention import Retention
from freehold.control.streams import Streams
from freehold.control.warden_link import Warden
from freehold.control.wire import Wire
from freehold.domain import limits
from freehold.domain.times import utc_now
from freehold.observe.spans import SpanRecord
from freehold.store.base import Store
from freehold.store.vault import Vault


@dataclass(frozen=True, slots=True)
class Control:
    """Serve `app` with any ASGI server in the loop in which `run` runs."""

    app: App
    feed: Feed
    reconciler: Reconciler
    keys: StoredKeys
    launches: Launches
    key_sets: KeySets
    retention: Retention
    metrics: Metrics
    streams: Streams

    async def run(self, feed_listener: socket.socket) -> None:
        """Answer the other processes on `feed_listener` and reconcile, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.feed.serve(feed_listener))
                group.create_task(self.reconciler.run())
                group.create_task(self.launches.run())
                group.create_task(self.retention.run())
        finally:
            # An answer without an end would hold up the stop of the HTTP server.
            self.streams.close()
            await self.launches.aclose()
            await self.key_sets.aclose()


def build(
    *,
    store: Store,
    vault: Vault,
    preparer: Preparer,
    bundles: Path,
    uploads: Uploads,
    warden: Warden,
    region: str,
    wire: Wire,
    data_plane: dict[str, Any],
    logs_root: Path,
    holds_bucket: HoldsBucket,
    source: Source | None = None,
    reach: Reach = PUBLIC_INTERNET,
    key_ages: Ages = DEFAULT_AGES,
    on_spans: Callable[[list[SpanRecord]], None] | None = None,
    now: Callable[[], datetime] = utc_now,
    max_runtimes: int = limits.MAX_RUNTIMES,
    max_versions: int = limits.MAX_VERSIONS_PER_RUNTIME,
) -> Control:
    """Control over an open store. Call it inside the event loop that will serve it.

    `logs_root` is where the warden keeps agents' output; `holds_bucket` tells the server's own buckets from others.
    `bundles` is the directory of unpacked code; `data_plane` is what gateway workers are welcomed with: the data
    plane's model (`aws.model.Service.to_data`); `on_spans` gets the spans that gateway workers have ended. `source` is
    where certificates of private authorities are read, if anywhere; `reach` says where identity providers may be.
    """
    keys = StoredKeys(store, vault, now=now)
    launches = Launches(store, preparer, bundles)
    certificates = None if source is None else Certificates(source)
    key_sets = KeySets(Fetcher(reach), None if certificates is None else certificates.read, key_ages)
    feed = Feed(
        store,
        keys,
        region=region,
        data_plane=data_plane,
        key_sets=key_sets,
        reach=reach,
        load_launch=launches.get,
        on_spans=on_spans,
    )
    key_sets.on_change = feed.key_set_changed
    reconciler = Reconciler(store, preparer, feed, warden, now=now)
    context = Context(
        store=store,
        preparer=preparer,
        pages=Pages(vault.derive("page tokens"), "agent runtimes"),
        now=now,
        reach=reach,
        certificates=certificates,
        max_runtimes=max_runtimes,
        max_versions=max_versions,
    )
    streams = Streams()
    operator = OperatorApi(
        context=context,
        uploads=uploads,
        warden=warden,
        keys=keys,
        feed=feed,
        region=region,
        machine=platform.machine(),
        logs_root=logs_root,
        holds_bucket=holds_bucket,
        streams=streams,
    )
    metrics = Metrics(feed, warden)
    app = App(
        wire=wire,
        verifier=Verifier(keys, region=region),
        context=context,
        feed=feed,
        reconciler=reconciler,
        operator=operator,
        region=region,
        metrics=metrics,
    )
    return Control(app, feed, reconciler, keys, launches, key_sets, Retention(store, now=now), metrics, streams)
