"""What AWS has no API for: uploads into local buckets, what runs and why it ended, logs, keys. Below `/_freehold/v1/`.

For: the command line and operators, who sign like any AWS client. Not for liveness and readiness (the gateway answers
those), nor for what the resources' own modules do (`operator_runtimes` and its like). Invariant: nothing is done for a
caller before the whole request is verified; an object appears only if its bytes are those whose hash was signed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import unquote_to_bytes

from anyio import to_thread

from freehold.auth.sigv4 import Pending, SignatureRefused
from freehold.control import operator_keys, operator_logs, operator_runtimes, operator_sessions, parity, runtimes
from freehold.control.errors import UnknownOperation
from freehold.control.exchange import Exchange
from freehold.control.feed import Feed
from freehold.control.keys import StoredKeys
from freehold.control.operator_queries import Query
from freehold.control.streams import Streams
from freehold.control.warden_link import Warden
from freehold.domain import limits
from freehold.domain.errors import AccessDenied, FieldProblem, ValidationFailed
from freehold.domain.principals import Principal
from freehold.store.base import Scope

PREFIX: Final = b"/_freehold/v1/"
MAX_BODY_BYTES: Final = 64 * 1024
_BATCH_BYTES: Final = 1 << 20
"""Written at once: a hop to a worker thread for each packet would cost more than the write."""
_HASH = re.compile(r"[0-9a-f]{64}")


class Upload(Protocol):
    """One object on its way in; blocking."""

    def write(self, data: bytes, /) -> object: ...

    def commit(self) -> str:
        """Put the object in its place; its version id."""
        ...

    def abort(self) -> object:
        """Leave nothing behind, unless it was committed."""
        ...


class Uploads(Protocol):
    def begin_upload(self, bucket: str, key: str) -> Upload:
        """Blocking. Raises ValidationFailed for a name that can't be kept."""
        ...


@dataclass(frozen=True, slots=True)
class OperatorApi:
    """The endpoints; `answer` is called for paths below PREFIX."""

    context: runtimes.Context
    uploads: Uploads
    warden: Warden
    keys: StoredKeys
    feed: Feed
    region: str
    machine: str
    logs_root: Path
    holds_bucket: parity.HoldsBucket
    streams: Streams

    async def answer(self, exchange: Exchange, pending: Pending) -> None:
        """Answer one request whose head has been checked. Raises what `control.errors` maps."""
        parts = exchange.path.removeprefix(PREFIX).split(b"/")
        match parts:
            case [b"buckets", bucket, *key] if key:
                _allow(exchange, "PUT")
                await self._upload(exchange, pending, _text(bucket), "/".join(_text(part) for part in key))
            case [b"logs"]:
                _allow(exchange, "GET")
                await self._logs(exchange, await _without_body(exchange, pending))
            case _:
                endpoint = self._endpoint(exchange, [_text(part) for part in parts])
                principal = await _without_body(exchange, pending)
                if parts[0] == b"keys" and exchange.method != "GET" and pending.is_temporary:
                    raise AccessDenied("A temporary key can't change access keys: it would outlive itself")
                await exchange.answer_json(200, await endpoint(principal))

    def _endpoint(self, exchange: Exchange, parts: list[str]) -> Callable[[Principal], Awaitable[Any]]:
        """What answers a request without a body; its query is read once the caller is known."""
        match parts:
            case ["runtimes", *runtime] if len(runtime) <= 1:
                _allow(exchange, "GET")
                return lambda caller: self._runtimes(exchange, caller, *runtime)
            case ["sessions", *which] if len(which) <= 1:
                _allow(exchange, *(["GET", "DELETE"] if which and which != ["ended"] else ["GET"]))
                return lambda caller: self._sessions(exchange, caller, *which)
            case ["keys"]:
                _allow(exchange, "GET", "POST")
                return lambda caller: self._keys(exchange, caller)
            case ["keys", key_id]:
                _allow(exchange, "DELETE")
                return lambda caller: self._key(exchange, caller, key_id, operator_keys.delete)
            case ["keys", key_id, "disable"]:
                _allow(exchange, "POST")
                return lambda caller: self._key(exchange, caller, key_id, operator_keys.disable)
            case ["keys", key_id, "rotate"]:
                _allow(exchange, "POST")
                return lambda caller: self._rotate_key(exchange, caller, key_id)
            case _:
                raise UnknownOperation("No such operator endpoint", status=404)

    async def _runtimes(self, exchange: Exchange, caller: Principal, runtime_id: str | None = None) -> Any:
        scope = Scope(caller.account, self.region)
        if runtime_id is None:
            query = Query(exchange.query, "maxResults", "nextToken")
            return await to_thread.run_sync(operator_runtimes.page, self.context, scope, query)
        Query(exchange.query)
        here = parity.Here(caller.account, self.machine)
        return await to_thread.run_sync(
            operator_runtimes.show, self.context, scope, runtime_id, here, self.holds_bucket
        )

    async def _sessions(self, exchange: Exchange, caller: Principal, which: str | None = None) -> Any:
        if which is None:
            query = Query(exchange.query, "maxResults", "after", "runtimeId", "usage")
            return await operator_sessions.running(self.warden, caller.account, query)
        if which == "ended":
            query = Query(exchange.query, "maxResults", "before", "runtimeId", "sessionId")
            return await operator_sessions.ended(self.warden, caller.account, query)
        Query(exchange.query)
        act = operator_sessions.stop if exchange.method == "DELETE" else operator_sessions.show
        return await act(self.warden, caller.account, which)

    async def _keys(self, exchange: Exchange, caller: Principal) -> Any:
        scope = Scope(caller.account, self.region)
        if exchange.method == "POST":
            return await operator_keys.create(self.keys, scope, Query(exchange.query, "expiresInSeconds"))
        Query(exchange.query)
        return await operator_keys.listed(self.keys, scope, self.context.now())

    async def _rotate_key(self, exchange: Exchange, caller: Principal, key_id: str) -> Any:
        query = Query(exchange.query, "graceSeconds")
        return await operator_keys.rotate(self.keys, self.feed, Scope(caller.account, self.region), key_id, query)

    async def _key(self, exchange: Exchange, caller: Principal, key_id: str, act: operator_keys.Act) -> Any:
        Query(exchange.query)
        return await act(self.keys, self.feed, Scope(caller.account, self.region), key_id)

    async def _logs(self, exchange: Exchange, caller: Principal) -> None:
        query = Query(exchange.query, *operator_logs.MEMBERS)
        wanted = operator_logs.selection(query, caller.account)
        with self.streams.one() as over:
            parts = operator_logs.lines(self.logs_root, query, wanted, over)
            await exchange.stream([(b"content-type", b"application/x-ndjson")], parts, over)

    async def _upload(self, exchange: Exchange, pending: Pending, bucket: str, key: str) -> None:
        claimed = pending.claimed_payload_sha256
        if claimed is None or not _HASH.fullmatch(claimed):
            raise ValidationFailed(
                "An upload is signed with the SHA-256 of its bytes in x-amz-content-sha256",
                fields=(FieldProblem("x-amz-content-sha256", "64 lower-case hex digits, in a signed header"),),
            )
        # The signature covers the claimed hash: verified before a byte is kept; the bytes are held to it below.
        pending.finish(claimed)
        upload = await to_thread.run_sync(self.uploads.begin_upload, bucket, key)
        try:
            digest, size, batch = hashlib.sha256(), 0, bytearray()
            async for part in exchange.parts(limits.MAX_ZIP_BYTES):
                digest.update(part)
                size += len(part)
                batch += part
                if len(batch) >= _BATCH_BYTES:
                    await to_thread.run_sync(upload.write, bytes(batch))
                    batch.clear()
            if digest.hexdigest() != claimed:
                raise SignatureRefused.wrong_payload()
            await to_thread.run_sync(upload.write, bytes(batch))
            version_id = await to_thread.run_sync(upload.commit)
        finally:
            await to_thread.run_sync(upload.abort)
        answer = {"bucket": bucket, "key": key, "versionId": version_id, "size": size, "sha256": claimed}
        await exchange.answer_json(200, answer)


async def _without_body(exchange: Exchange, pending: Pending) -> Principal:
    body = await exchange.body(MAX_BODY_BYTES)
    return pending.finish(hashlib.sha256(body).hexdigest())


def _text(part: bytes) -> str:
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise ValidationFailed("The path is not UTF-8", reason="CannotParse") from None


def _allow(exchange: Exchange, *methods: str) -> None:
    """Raise UnknownOperation unless the method is one of these."""
    if exchange.method not in methods:
        raise UnknownOperation(f"Method not allowed. Use {' or '.join(methods)}.", status=405, allowed=methods)
