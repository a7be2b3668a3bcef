"""Opening a WebSocket: from a recognised call to a tunnel between the caller and the session's agent.

Not for who calls (`callers`), for what heads must say (`handshake`), or for what follows (`tunnel`). Invariant: a
caller is answered 101 only when the agent has accepted; until then it is answered as any other request is.
"""

from __future__ import annotations

import msgspec

from freehold.auth import bearer
from freehold.auth.sigv4 import SignatureRefused
from freehold.domain.errors import AgentFailed, FreeholdError, ValidationFailed
from freehold.gateway import headers, heads
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.callers import Call, Callers
from freehold.gateway.claims import Claims, LiveClaim
from freehold.gateway.directory import Directory
from freehold.gateway.errors import WireError, answered_error, envelope
from freehold.gateway.exchange import ClientGone, Exchange, new_id
from freehold.gateway.heads import RequestHead, ResponseHead
from freehold.gateway.joins import Joined, Joins
from freehold.gateway.members import WEB_SOCKET
from freehold.gateway.sweeper import Sweeper
from freehold.gateway.upstream import Upstream
from freehold.gateway.websocket import handshake
from freehold.gateway.websocket.handshake import Opening, UpgradeRequired
from freehold.gateway.websocket.tunnel import Tunnel
from freehold.observe.tracing import Trace, Tracer


class WebSockets:
    """Opens connections, and knows those that are stuck."""

    def __init__(
        self,
        *,
        callers: Callers,
        directory: Directory,
        claims: Claims,
        sweeper: Sweeper,
        limits: GatewayLimits,
        tracer: Tracer,
    ) -> None:
        self._callers = callers
        self._claims = claims
        self._joins = Joins(claims, directory)
        self._sweeper = sweeper
        self._limits = limits
        self._tracer = tracer
        self._blocked: set[Tunnel] = set()
        sweeper.every_tick(self._check_blocked)

    async def handle(self, exchange: Exchange, runtime: bytes) -> None:
        """Answer InvokeAgentRuntimeWithWebSocketStream; see exchange.Handler."""
        head = exchange.head
        # Who is refused may have sent frames already, which must not be read as requests.
        exchange.close_after()
        if head.method != "GET":
            body = msgspec.json.encode({"message": "Method Not Allowed. Use GET."})
            exchange.answer(405, [(b"content-type", b"application/json"), (b"allow", b"GET")], body)
            return
        try:
            opening = handshake.read(head)
        except UpgradeRequired as error:
            _answer_upgrade_required(exchange, error)
            return
        _take_session_id(head, opening)
        try:
            call = await self._callers.recognise(exchange, WEB_SOCKET, runtime, max_body_bytes=0)
        except SignatureRefused as refusal:
            if opening.bears_token and refusal.code == SignatureRefused.missing().code:
                raise SignatureRefused.other_method() from None
            raise
        call.body.close()
        exchange.trace = trace = self._tracer.begin(head.headers)
        await self._open(exchange, call, opening, trace)

    async def _open(self, exchange: Exchange, call: Call, opening: Opening, trace: Trace) -> None:
        session_id = call.params.get("runtimeSessionId") or new_id()
        agent_key = handshake.new_key()

        async def prepare(joined: Joined) -> tuple[bytes, Upstream]:
            request_head = _agent_request(exchange, opening, joined, agent_key, trace, by_token=call.principal.by_token)
            return request_head, await self._connection(joined.claim)

        joined, (request_head, connection) = await self._joins.join(exchange, call, session_id, prepare)
        claim = joined.claim
        tunnel = Tunnel(
            exchange,
            connection,
            claims=self._claims,
            claim=claim,
            sweeper=self._sweeper,
            limits=self._limits,
            blocked=self._blocked,
        )
        told = handshake.switching(opening)
        told.append((headers.SESSION_ID, session_id.encode()))
        told += trace.headers()
        _Handshake(exchange, connection, claims=self._claims, claim=claim, tunnel=tunnel, told=told).begin(
            request_head, agent_key, self._sweeper.clock() + self._limits.web_socket_handshake_timeout_s
        )

    async def _connection(self, claim: LiveClaim) -> Upstream:
        """One that no request has used: an agent is not about to close it."""
        connection = await self._claims.connection(claim)
        if connection.is_reused:
            self._claims.keep(claim, connection)
            connection = await self._claims.connection(claim, fresh=True)
        return connection

    def _check_blocked(self, _now: float) -> None:
        for tunnel in list(self._blocked):
            tunnel.check_blocked()


class _Handshake:
    """The agent is being asked. A Sink and a Relay."""

    def __init__(
        self,
        exchange: Exchange,
        connection: Upstream,
        *,
        claims: Claims,
        claim: LiveClaim,
        tunnel: Tunnel,
        told: headers.Headers,
    ) -> None:
        self._exchange = exchange
        self._connection = connection
        self._claims = claims
        self._claim = claim
        self._tunnel = tunnel
        self._told = told
        self._key = b""
        self._ended = False

    def begin(self, request_head: bytes, key: bytes, deadline: float) -> None:
        """Send the request. Raises ClientGone."""
        self._key = key
        try:
            self._exchange.attach(self)
        except ClientGone:
            self._end()
            raise
        self._exchange.set_deadline(deadline)
        self._connection.begin(self, "GET", may_switch=True)
        self._connection.write(request_head)

    # -- Sink: the agent's side -----------------------------------------------------------------------------------

    def response_head(self, head: ResponseHead) -> None:
        if head.status != 101:
            if head.status >= 300:
                self._fail(answered_error(head.status))
            else:
                self._fail(AgentFailed(f"The runtime answered ({head.status}) and did not open the WebSocket."))
            return
        problem = handshake.check_accepted(head, self._key)
        if problem is not None:
            self._fail(AgentFailed(f"The runtime did not open the WebSocket as it must: {problem}."))
            return
        self._ended = True
        try:
            self._tunnel.begin(self._told)
        except ClientGone:
            self._end()

    def response_body(self, raw: bytes) -> None:
        """Of an answer that was not wanted."""

    def response_end(self) -> None:
        """Of an answer that was not wanted."""

    def response_failed(self, why: str) -> None:
        why = self._claim.ended or why
        self._fail(AgentFailed(f"The runtime broke off before it had answered: {why}."))

    def upstream_writable(self) -> None:
        """All there is to be written is the head."""

    # -- Relay: the caller's side ---------------------------------------------------------------------------------

    def client_gone(self) -> None:
        if not self._ended:
            self._end()

    def client_writable(self, writable: bool) -> None:
        """Nothing is sent yet."""

    def deadline_passed(self) -> None:
        self._fail(AgentFailed("The runtime did not answer the WebSocket's handshake in time."))

    def _fail(self, error: FreeholdError) -> None:
        if not self._ended:
            self._end()
            self._exchange.answer_error(error)

    def _end(self) -> None:
        self._ended = True
        self._connection.leave()
        self._claims.leave(self._claim)


def _answer_upgrade_required(exchange: Exchange, error: UpgradeRequired) -> None:
    answer = envelope(WireError("ValidationException", 426, error.message))
    told = [*answer.headers, (b"upgrade", b"websocket"), (b"sec-websocket-version", handshake.VERSION)]
    exchange.answer(426, told, answer.body)


def _take_session_id(head: RequestHead, opening: Opening) -> None:
    """Have the session's id, wherever it was given, where the operation's parameters are read from."""
    if opening.session_id is None:
        return
    for name, value in head.headers:
        if name == headers.SESSION_ID:
            if value != opening.session_id:
                raise ValidationFailed("The session's id is given in the query and in a header, and not the same")
            return
    head.headers = [*head.headers, (headers.SESSION_ID, opening.session_id)]


def _agent_request(
    exchange: Exchange,
    opening: Opening,
    joined: Joined,
    agent_key: bytes,
    trace: Trace,
    *,
    by_token: bool,
) -> bytes:
    """The head of the handshake with the agent. Raises ValidationFailed when its protocol has none."""
    rules, contract = joined.rules, joined.contract
    if rules.web_socket_target is None:
        raise ValidationFailed(f"Agents that speak {contract.protocol} take no WebSocket connections")
    received = exchange.head.headers
    if by_token and opening.bears_token:
        # An agent that may see its callers' tokens sees those of browsers, too.
        token = bearer.from_web_socket((), received, exchange.head.raw_query)
        received = [*received, (b"authorization", b"Bearer " + token)]
    lines = handshake.request_lines(rules.web_socket_target, opening, port=contract.port, key=agent_key)
    told = [
        (headers.SESSION_ID, joined.claim.key.session_id.encode()),
        (headers.REQUEST_ID, exchange.request_id.encode()),
        *opening.custom,
        *headers.kept_of(received, rules=rules, allowlist=contract.header_allowlist, by_token=by_token),
    ]
    return b"".join([*lines, heads.lines_of(told), trace.lines, b"\r\n"])
