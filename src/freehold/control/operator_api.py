"""What AWS has no API for: uploading into local buckets, and seeing what runs. Below `/_freehold/v1/`.

For: the command line and operators, who sign like any AWS client. Not for liveness and readiness (the gateway
answers those). Invariant: an object appears only if its bytes are those whose hash the caller signed.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

from anyio import to_thread

from freehold.auth.sigv4 import Pending, SignatureRefused
from freehold.control import runtimes
from freehold.control.errors import UnknownOperation
from freehold.control.exchange import Exchange
from freehold.control.warden_link import Warden
from freehold.domain import arns, limits
from freehold.domain.errors import FieldProblem, ValidationFailed
from freehold.domain.principals import Principal
from freehold.store.base import Scope

PREFIX: Final = b"/_freehold/v1/"
MAX_BODY_BYTES: Final = 64 * 1024
_BATCH_BYTES: Final = 1 << 20
"""Written at once: a hop to a worker thread for each packet would cost more than the write."""
_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_PAGE: Final = 100


class Upload(Protocol):
    """One object on its way in; blocking."""

    def write(self, data: bytes, /) -> object: ...

    def commit(self) -> object: ...

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
    region: str

    async def answer(self, exchange: Exchange, pending: Pending) -> None:
        """Answer one request whose head has been checked. Raises what `control.errors` maps."""
        parts = exchange.path.removeprefix(PREFIX).split(b"/")
        match exchange.method, parts:
            case "PUT", [b"buckets", bucket, *key] if key:
                await self._upload(exchange, pending, _text(bucket), "/".join(_text(part) for part in key))
            case "GET", [b"runtimes"]:
                principal = await _without_body(exchange, pending)
                await exchange.answer_json(200, await self._runtimes(exchange, principal))
            case "GET", [b"sessions"]:
                principal = await _without_body(exchange, pending)
                await exchange.answer_json(200, await self._sessions(exchange, principal))
            case _, [b"buckets", _, *key] if key:
                raise UnknownOperation("Method not allowed. Use PUT.", status=405, allowed=("PUT",))
            case _, [b"runtimes"] | [b"sessions"]:
                raise UnknownOperation("Method not allowed. Use GET.", status=405, allowed=("GET",))
            case _:
                raise UnknownOperation("No such operator endpoint", status=404)

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
            await to_thread.run_sync(upload.commit)
        finally:
            await to_thread.run_sync(upload.abort)
        await exchange.answer_json(200, {"bucket": bucket, "key": key, "size": size, "sha256": claimed})

    async def _runtimes(self, exchange: Exchange, principal: Principal) -> dict[str, Any]:
        scope = Scope(principal.account, self.region)
        query = _query(exchange)
        rows, token = await to_thread.run_sync(
            runtimes.page, self.context, scope, _number(query, "maxResults", _MAX_PAGE), query.get("nextToken")
        )
        lines = [
            {
                "runtimeId": row.runtime_id,
                "name": row.name,
                "arn": str(arns.AgentRuntimeArn(scope.region, scope.account, row.runtime_id)),
                "status": row.status.value,
                "latestVersion": row.latest_version,
                "liveVersion": row.live_version,
                "createdAt": row.created_at,
                "updatedAt": row.updated_at,
            }
            for row in rows
        ]
        return {"runtimes": lines} if token is None else {"runtimes": lines, "nextToken": token}

    async def _sessions(self, exchange: Exchange, principal: Principal) -> dict[str, Any]:
        """One page in order of generation; `nextAfter` is there when the page was full."""
        query = _query(exchange)
        limit = _number(query, "maxResults", _MAX_PAGE) or _MAX_PAGE
        page = await self.warden.sessions(after=_number(query, "after", None) or 0, limit=limit)
        lines = [
            {
                "generation": session.generation,
                "runtimeId": session.key.runtime_id,
                "endpoint": session.key.endpoint,
                "sessionId": session.key.session_id,
                "version": session.version,
                "state": session.state.value,
                "claims": session.claims,
                "ageSeconds": session.age_s,
                "idleSeconds": session.idle_s,
            }
            for session in page
            if session.key.account == principal.account
        ]
        answer: dict[str, Any] = {"sessions": lines}
        if len(page) >= limit:
            answer["nextAfter"] = page[-1].generation
        return answer


async def _without_body(exchange: Exchange, pending: Pending) -> Principal:
    body = await exchange.body(MAX_BODY_BYTES)
    return pending.finish(hashlib.sha256(body).hexdigest())


def _text(part: bytes) -> str:
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise ValidationFailed("The path is not UTF-8", reason="CannotParse") from None


def _query(exchange: Exchange) -> dict[str, str]:
    return dict(parse_qsl(exchange.query.decode("latin-1"), keep_blank_values=True))


def _number(query: dict[str, str], name: str, maximum: int | None) -> int | None:
    """A positive decimal number of the query, if it is there. Raises ValidationFailed."""
    text = query.get(name)
    if text is None:
        return None
    if text.isascii() and text.isdecimal() and len(text) <= 18:
        number = int(text)
        if maximum is None or 1 <= number <= maximum:
            return number
    rule = "a decimal number" if maximum is None else f"a number from 1 to {maximum}"
    raise ValidationFailed(f"{name} must be {rule}", fields=(FieldProblem(name, rule),))
