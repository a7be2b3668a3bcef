"""Control put together: the store's owner, which answers the control plane and feeds the other processes.

For: `compose`, which hands in what is concrete. Not for opening sockets or files. Invariant: the application is
served only while `run` runs, so that whatever a request sets going is taken up.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from freehold.auth.sigv4 import Verifier
from freehold.control.app import App
from freehold.control.feed import Feed
from freehold.control.keys import StoredKeys
from freehold.control.operator_api import OperatorApi, Uploads
from freehold.control.paging import Pages
from freehold.control.reconciler import Preparer, Reconciler
from freehold.control.runtimes import Context
from freehold.control.warden_link import Warden
from freehold.control.wire import Wire
from freehold.domain import limits
from freehold.store.base import Store
from freehold.store.vault import Vault


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Control:
    """Serve `app` with any ASGI server in the loop in which `run` runs."""

    app: App
    feed: Feed
    reconciler: Reconciler
    keys: StoredKeys

    async def run(self, feed_listener: socket.socket) -> None:
        """Answer the other processes on `feed_listener` and reconcile, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.feed.serve(feed_listener))
            group.create_task(self.reconciler.run())


def build(
    *,
    store: Store,
    vault: Vault,
    preparer: Preparer,
    uploads: Uploads,
    warden: Warden,
    region: str,
    wire: Wire,
    data_plane: dict[str, Any],
    now: Callable[[], datetime] = utc_now,
    max_runtimes: int = limits.MAX_RUNTIMES,
    max_versions: int = limits.MAX_VERSIONS_PER_RUNTIME,
) -> Control:
    """Control over an open store. Call it inside the event loop that will serve it.

    `data_plane` is what gateway workers are welcomed with: the data plane's model (`aws.model.Service.to_data`).
    """
    keys = StoredKeys(store, vault, now=now)
    feed = Feed(store, keys, region=region, data_plane=data_plane)
    reconciler = Reconciler(store, preparer, feed, warden, now=now)
    context = Context(
        store=store,
        preparer=preparer,
        pages=Pages(vault.derive("page tokens"), "agent runtimes"),
        now=now,
        max_runtimes=max_runtimes,
        max_versions=max_versions,
    )
    app = App(
        wire=wire,
        verifier=Verifier(keys, region=region),
        context=context,
        feed=feed,
        reconciler=reconciler,
        operator=OperatorApi(context, uploads, warden, region),
        region=region,
    )
    return Control(app, feed, reconciler, keys)
