"""Control's HTTP front: the AWS control plane and the operator API, over ASGI.

For: whatever the gateway hands on, which is everything that is not data plane. Not for what operations do
(`control.runtimes`). Invariant: route, then authenticate, then parse and validate, then act; a caller who is not
known learns nothing but that; every answer has a request id, and no answer tells of a fault of the server more than
that there was one.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field
from typing import Final

import structlog
from anyio import to_thread

from freehold.auth.sigv4 import Head, Pending, Verifier
from freehold.control import errors, metrics, operations, operator_api
from freehold.control.context import Context
from freehold.control.exchange import ClientGone, Exchange, Receive, Scope, Send, Waiting
from freehold.control.feed import Feed
from freehold.control.metrics import Metrics
from freehold.control.operator_api import OperatorApi
from freehold.control.reconciler import Reconciler
from freehold.control.wire import Wire
from freehold.domain.errors import FreeholdError
from freehold.store import base

MAX_BODY_BYTES: Final = 1 << 20
"""Of a request to the control plane; the largest that the model allows is far smaller."""

OPERATOR_API: Final = "OperatorApi"
"""What all of the operator API is called in logs and metrics."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class App:
    """The ASGI application. Its parts must be running (`control.service`)."""

    wire: Wire
    verifier: Verifier
    context: Context
    feed: Feed
    reconciler: Reconciler
    operator: OperatorApi
    region: str
    metrics: Metrics
    waiting: Waiting = field(default_factory=Waiting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        exchange = Exchange(scope, receive, send, self.waiting)
        try:
            await self._answer(exchange)
        except ClientGone:
            log.info("control.client_gone", request_id=exchange.request_id)
        except FreeholdError as error:
            await exchange.answer_error(errors.to_wire(error))
        except Exception as error:
            log.exception("control.request_failed", request_id=exchange.request_id, method=exchange.method)
            await exchange.answer_error(errors.to_wire(error))

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.path == metrics.PATH:
            await self._metrics(exchange)
        elif exchange.path.startswith(operator_api.PREFIX):
            exchange.operation = OPERATOR_API
            await self.operator.answer(exchange, await self._check_head(exchange))
        else:
            await self._operation(exchange)

    async def _metrics(self, exchange: Exchange) -> None:
        exchange.operation = metrics.OPERATION
        pending = await self._check_head(exchange)
        body = await exchange.body(operator_api.MAX_BODY_BYTES)
        exchange.account = pending.finish(hashlib.sha256(body).hexdigest()).account
        if exchange.method != "GET":
            raise errors.UnknownOperation("Method not allowed. Use GET.", status=405, allowed=("GET",))
        shown = await self.metrics.render(exchange.account)
        await exchange.answer(200, [(b"content-type", metrics.CONTENT_TYPE)], shown)

    async def _operation(self, exchange: Exchange) -> None:
        routed = self.wire.route(exchange.method, exchange.path)
        exchange.operation = routed.name
        pending = await self._check_head(exchange)
        body = await exchange.body(MAX_BODY_BYTES)
        principal = pending.finish(hashlib.sha256(body).hexdigest())
        exchange.account = principal.account
        operation = operations.OPERATIONS.get(routed.name)
        if operation is None:
            raise errors.UnknownOperation(f"Freehold does not have the operation {routed.name} yet", status=400)
        params = self.wire.parse(routed, exchange.query, exchange.headers, body)
        scope = base.Scope(principal.account, self.region)
        if routed.name in operations.READING and not self.context.store.reads_wait:
            outcome = operation(self.context, scope, params)
        else:
            changing = contextlib.nullcontext()
            if routed.name in operations.REROUTING:
                changing = self.feed.changing(params["agentRuntimeId"])
            async with changing:
                outcome = await to_thread.run_sync(operation, self.context, scope, params)
                if outcome.work is not None:
                    self.reconciler.wake(outcome.work)
        await self.feed.settled(outcome.shown)
        await exchange.answer(*self.wire.serialize(routed, outcome.output))

    async def _check_head(self, exchange: Exchange) -> Pending:
        head = Head(exchange.method, exchange.path, exchange.query, exchange.headers)
        return await self.verifier.check_head(head, now=self.context.now())


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
