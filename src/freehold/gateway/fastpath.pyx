# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""The short way of `passages`, compiled: what it costs there in calls and objects it costs here in bytes compared.

For: workers on machines with a C compiler, or with a wheel that was built on one. Not for deciding anything that
`passages` does not decide: what is not just like a request or an answer before it goes there, whole. Invariant: nobody
outside can tell which of the two a request took.
"""

import os
from hashlib import sha256
from hmac import compare_digest

from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_DecodeUTF8
from libc.string cimport memchr, memcmp, memcpy
from libc.time cimport time

from freehold.gateway import heads
from freehold.gateway.claims import SHORTEST_S
from freehold.gateway.connection import State
from freehold.gateway.familiar import FamiliarHead
from freehold.gateway.fastseats cimport MOST_HEADERS, SIGNATURE, Form, Layout, Place, Sight
from freehold.gateway.lane cimport Rider, Taker
from freehold.gateway.octets cimport (
    NUMBER, Span, head_end, is_same, is_same_secret, put, put_bytes, put_hex, put_ms, put_number, put_padded, put_text,
    value_of,
)
from freehold.gateway.outlet cimport Outlet
from freehold.observe.access_log import FLUSH_LINES, stamp
from freehold.observe.counts import LATENCY_BOUNDS_S
from freehold.observe.tracing import Trace

cdef enum:
    REQUEST_ID = 36
    TRACE_ID = 32
    SPAN_ID = 16
    SPEND = 16 + 12 + 8  # random bytes of one request
    LINE = 400  # of a line in the access log, what all requests write: names, ids and numbers, and some
    MOST_BOUNDS = 32

cdef int MAX_LENGTH_DIGITS = heads.MAX_LENGTH_DIGITS
cdef object READY = State.HEAD
cdef object ANSWERING = State.ANSWERING
cdef Py_ssize_t MOST_LINES = FLUSH_LINES - 1
cdef double SHORTEST = SHORTEST_S
cdef double WAIT_S = 0.002  # from one tick to the next: see FastPassages._wait
cdef Py_ssize_t TRACE_LINES = len(Trace("0" * TRACE_ID, "0" * SPAN_ID, False, False).lines)
cdef int BOUNDS = len(LATENCY_BOUNDS_S)
cdef double[MOST_BOUNDS] BOUND_S
for _at, _bound in enumerate(LATENCY_BOUNDS_S):
    BOUND_S[_at] = _bound
cdef bytes OK_LINE = b"HTTP/1.1 200 OK\r\n"
cdef bytes REQUEST_ID_LINE = b"x-amzn-requestid: "
cdef bytes DATE_LINE = b"\r\ndate: "
cdef bytes HEAD_END = b"\r\n\r\n"
cdef bytes LENGTH_LINE = b"content-length: "


cdef int bucket_of(double duration_s) noexcept:
    """As bisect_left in LATENCY_BOUNDS_S."""
    cdef int at = 0
    while at < BOUNDS and BOUND_S[at] < duration_s:
        at += 1
    return at


cdef inline object recall(recent, key):
    """As familiar.Recent.get."""
    found = (<dict>recent.newer).get(key)
    return recent.get(key) if found is None else found


# -- connections: what stands between them and their transports ------------------------------------------------------


cdef class Client(Rider):
    """Takes what comes of a connection.ClientConnection, whose state is there and not here. One that has been seen to
    send passages rides."""

    cdef FastPassages fast
    cdef object connection
    cdef Outlet outlet
    cdef readonly object eof_received, pause_writing, resume_writing

    def __cinit__(self, fast, connection, transport):
        self.fast, self.connection, self.transport, self.outlet = fast, connection, transport, Outlet(transport)
        self.eof_received = connection.eof_received
        self.pause_writing, self.resume_writing = connection.pause_writing, connection.resume_writing

    def data_received(self, bytes data):
        if self._is_taken(data):
            self.ride(self.transport)

    cdef int came(self, const char* data, Py_ssize_t size) except -1:
        self._is_taken(PyBytes_FromStringAndSize(data, size))
        return 0

    cdef bint _is_taken(self, bytes data) except -1:
        connection = self.connection
        if connection.state is READY and not connection.buffer and connection.writable and self.fast._take(self, data):
            return True
        connection.receive(data)
        return False

    def connection_lost(self, exc):
        self.alight()
        self.connection.connection_lost(exc)

    cdef int begin(self, FastPassage passage, double deadline) except -1:
        """As ClientConnection.begin_passage."""
        connection = self.connection
        connection.passage = passage
        connection.state = ANSWERING
        connection.deadline = deadline
        return 0

    cdef int end(self, bytes answer, double now, double keep_alive_timeout) except -1:
        """As ClientConnection.end_passage."""
        connection = self.connection
        connection.passage = None
        connection.state = READY
        connection.deadline = now + keep_alive_timeout
        self.outlet.put(answer)
        if connection.buffer or not connection.reading:
            connection.go_on()
        return 0


cdef class Agent(Rider):
    """Takes what comes of an upstream.Upstream, as Client does."""

    cdef object upstream
    cdef Outlet outlet
    cdef Taker taker  # of what comes, until the response ends
    cdef readonly object eof_received, pause_writing, resume_writing

    def __cinit__(self, upstream, transport):
        self.upstream, self.transport, self.outlet = upstream, transport, Outlet(transport)
        self.eof_received = upstream.eof_received
        self.pause_writing, self.resume_writing = upstream.pause_writing, upstream.resume_writing

    def data_received(self, bytes data):
        cdef Taker taker = self.taker
        if taker is not None:
            self.ride(self.transport)
            taker.came(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        elif self._is_taken(data):
            self.ride(self.transport)

    cdef int came(self, const char* data, Py_ssize_t size) except -1:
        cdef Taker taker = self.taker  # held: it may be the response's last bytes
        if taker is not None:
            taker.came(data, size)
        else:
            self._is_taken(PyBytes_FromStringAndSize(data, size))
        return 0

    def receive_with(self, receive):
        """See Upstream.receive_with; None: no more."""
        self.taker = None if receive is None else receive.__self__

    cdef bint _is_taken(self, bytes data) except -1:
        upstream = self.upstream
        passage = upstream.passage
        if type(passage) is FastPassage:
            upstream.passage = None
            if (<FastPassage>passage).answered(data):
                return not upstream.closed
        upstream.data_received(data)
        return False

    def connection_lost(self, exc):
        self.alight()
        self.upstream.connection_lost(exc)

    cdef int begin(self, FastPassage passage, bytes request) except -1:
        """As Upstream.begin_passage."""
        upstream = self.upstream
        upstream.sink = upstream.passage = passage
        written = upstream.written
        upstream.written_before = written
        upstream.written = written + PyBytes_GET_SIZE(request)
        self.outlet.put(request)
        return 0


# -- requests ---------------------------------------------------------------------------------------------------------


cdef class FastPassages:
    """Takes requests, if they are such; hands to `passages` what may be but is not familiar enough."""

    cdef object _passages, _invocations, _host, _reader, _hosts, _claims, _sweeper, _observer, _clock, _tracer, _ratio
    cdef object _chance, _verdict, _key_sets, _signer, _signer_of, _known_template, _date, _known_response
    cdef object _access_log, _wall, _add_written
    cdef object _call_later, _first, _known
    cdef list _lines, _waiting
    cdef bytes _line, _host_value, _response, _random
    cdef Py_ssize_t _drawn
    cdef Py_ssize_t _max_payload, _max_idle
    cdef double _first_byte_timeout, _keep_alive_timeout
    cdef long long _second
    cdef bytes _stamp

    def __init__(self, passages):
        limits = passages.limits
        callers = passages.callers
        self._passages = passages
        self._invocations, self._host, self._claims = passages.invocations, passages.host, passages.claims
        self._reader = passages.host.reader
        self._hosts = self._reader.hosts
        self._sweeper, self._observer, self._clock = passages.sweeper, passages.observer, passages.clock
        self._tracer = passages.tracer
        self._ratio, self._chance = self._tracer.sample_ratio, self._tracer.chance
        self._verdict, self._key_sets, self._signer = callers.bearer_at_once, callers.key_sets, callers.signer_at_once
        self._signer_of, self._known_template, self._date = callers.signer, callers.known_template, callers.now
        self._known_response = passages.known_response
        self._access_log = passages.observer.access_log
        self._wall = self._add_written = self._lines = None
        if self._access_log is not None and self._access_log.json_lines:
            self._wall, self._add_written = self._access_log.wall, passages.observer.add_written
            self._lines = self._access_log.lines
        self._line = self._host_value = self._response = self._random = b""
        self._drawn = 0
        self._max_payload, self._max_idle = limits.max_payload_bytes, limits.max_idle_connections
        self._first_byte_timeout, self._keep_alive_timeout = limits.first_byte_timeout_s, limits.keep_alive_timeout_s
        self._second = -1
        self._stamp = b""
        self._waiting = []
        self._call_later = passages.host.loop.call_later

    def receiver(self, connection, transport):
        """See connection.Host.receiver."""
        return Client(self, connection, transport)

    cdef bint _take(self, Client client, bytes data) except -1:
        """See passages.Passages.take."""
        cdef const char* start = PyBytes_AS_STRING(data)
        cdef const char* end = start + PyBytes_GET_SIZE(data)
        cdef const char* at
        cdef Py_ssize_t size
        cdef Span values[MOST_HEADERS]
        cdef Layout layout
        cdef Sight sight
        cdef Place place
        cdef FastPassage passage
        cdef double now
        seats = self._invocations.seats
        if seats is None or self._host.draining:
            return False
        first = self._first_line(start, end, data)
        if first is None:
            return False
        shape = first.shape
        layout = shape.compiled
        if layout is None:
            layout = shape.compiled = Layout(shape)
        at = layout.read(start + PyBytes_GET_SIZE(self._line), end, values)
        if at == NULL:
            return self._passages.take(client.connection, data)
        size = end - at
        if size > self._max_payload or not self._is_read(layout, values, size):
            return False
        view = (<dict>seats.views).get(shape)
        if view is None or not view.told_at:
            return False
        sight = view.compiled
        if sight is None:
            sight = view.compiled = Sight(view)
        seat = recall(seats.recent, sight.key(first, values))
        if seat is None:
            self._line = b""  # what is known of it may have been forgotten, and learnt anew
            return False
        place = seat.compiled
        if place is None:
            place = seat.compiled = Place(seat)
        claim = place.claim
        if not place.standing.current or not sight.is_bounded(values) or claim.ended is not None:
            return False
        now = self._clock()
        passage = FastPassage.__new__(FastPassage)
        passage.fast, passage.client, passage.seat, passage.place = self, client, seat, place
        passage.data, passage.head_size, passage.started_at = data, at - start, now
        if place.by_token:
            if not self._is_bearers(place, values[sight.authorization], now):
                return False
        elif not self._is_signers(place, first, values, values[sight.authorization], at, size):
            return False
        upstream = self._idle(claim, now)
        if upstream is None and (place.known is None or not claim.in_flight):
            return self._passages.take(client.connection, data)
        claim.in_flight += 1
        claim.requests += 1
        self._begin(passage)
        client.begin(passage, now + self._first_byte_timeout)
        if upstream is None:
            self._wait(passage)
        else:
            self._send(passage, upstream)
        return True

    cdef int _send(self, FastPassage passage, upstream) except -1:
        passage.agent = upstream.receiver
        passage.agent.begin(passage, passage.request())
        if passage.known_trace is not None and passage.known_trace.recorded:
            passage.widen()
        return 0

    cdef int _wait(self, FastPassage passage) except -1:
        """The session's connections are all in use, and by requests that are answered whole: one may be free at once,
        and making another costs more than all else of a request."""
        if not self._waiting:
            self._call_later(WAIT_S, self._tick)
        self._waiting.append(passage)
        return 0

    def _tick(self):
        """Those that have waited since before the last tick get connections of their own."""
        cdef FastPassage passage
        for passage in list(self._waiting):
            if passage.has_waited:
                passage.widen()
            passage.has_waited = True
        if self._waiting:
            self._call_later(WAIT_S, self._tick)

    cdef int _serve(self, claim, double now) except -1:
        """A connection of `claim` may be free."""
        cdef FastPassage passage
        cdef Py_ssize_t i
        for i in range(len(self._waiting)):
            passage = self._waiting[i]
            if passage.place.claim is claim:
                upstream = self._idle(claim, now)
                if upstream is not None:
                    del self._waiting[i]
                    self._send(passage, upstream)
                break
        return 0

    cdef object _first_line(self, const char* start, const char* end, bytes data):
        """The familiar.FirstLine that `data` begins with; `_line` is its bytes then."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self._line)
        cdef const char* found
        if size and end - start > size and memcmp(start, PyBytes_AS_STRING(self._line), size) == 0:
            return self._first
        found = <const char*>memchr(start, c"\n", end - start)
        if found == NULL:
            return None
        line = PyBytes_FromStringAndSize(start, found - start + 1)
        first = (<dict>self._reader.first_lines).get(line)
        if first is not None:
            self._line, self._first = line, first
        return first

    cdef bint _is_read(self, Layout layout, Span* values, Py_ssize_t size) except -1:
        """Whether what `values` say of how the request is read is what has been found right before, and `size` its
        length: as familiar.Reader decides."""
        cdef Span length, host = values[layout.host]
        cdef int i
        cdef Py_ssize_t told = 0
        if layout.length < 0:
            return False
        length = values[layout.length]
        if length.size < 1 or length.size > MAX_LENGTH_DIGITS:
            return False
        for i in range(length.size):
            if not c"0" <= length.at[i] <= c"9":
                return False
            told = told * 10 + (length.at[i] - c"0")
        if told != size:
            return False
        if layout.connection >= 0 and not self._keeps_alive(values[layout.connection]):
            return False
        if not is_same(host, self._host_value):
            value = PyBytes_FromStringAndSize(host.at, host.size)
            if value not in self._hosts:
                return False
            self._host_value = value
        return True

    cdef bint _keeps_alive(self, Span value) noexcept:
        return value.size == 10 and (
            memcmp(value.at, b"keep-alive", 10) == 0 or memcmp(value.at, b"Keep-Alive", 10) == 0
        )

    cdef object _idle(self, claim, double now):
        """As claims.Claims.idle_connection, where it need not look at the connection more closely."""
        idle = claim.idle
        if not idle:
            return None
        found = idle[len(idle) - 1]
        cdef double idle_s = now - <double>found.idle_since
        if found.closed or idle_s >= SHORTEST or idle_s >= <double>claim.reusable_for_s:
            return self._claims.idle_connection(claim, now)
        return idle.pop()

    cdef bint _is_bearers(self, Place place, Span authorization, double now) except -1:
        """Whether who calls by token is known at once, and is the session's owner."""
        if place.sent is not None and now < place.good_until and is_same_secret(authorization, <bytes>place.sent):
            entry = (<dict>self._key_sets).get(place.key_set)
            if entry is not None and entry.keys is place.keys and now < <double>entry.ask_again_at:
                return True
        value = PyBytes_FromStringAndSize(authorization.at, authorization.size)
        verdict = self._verdict(place.target, value)
        if verdict is None or verdict.principal.owner != place.key.owner:
            return False
        place.sent, place.keys, place.good_until = value, verdict.keys, verdict.good_until
        return True

    cdef bint _is_signers(
        self, Place place, first, Span* values, Span authorization, const char* body, Py_ssize_t size
    ) except -1:
        """Whether who calls by signature is known at once, and is the session's owner: as Callers.signer_at_once."""
        cdef Form form = self._form(place, first, authorization)
        cdef bytes hashed, canonical = None
        if form is not None:
            hashed = sha256(PyMemoryView_FromMemory(<char*>body, size, PyBUF_READ)).hexdigest().encode()
            canonical = form.canonical(values, hashed)
        if canonical is None:
            return self._is_new_signers(place, first, values, authorization, body, size)
        if form.claimed >= 0 and not compare_digest(value_of(values, form.claimed), hashed):
            return False
        principal = self._signer_of(
            form.template,
            canonical,
            value_of(values, form.stamp),
            value_of(values, form.token),
            PyBytes_FromStringAndSize(authorization.at + authorization.size - SIGNATURE, SIGNATURE),
            self._date(),
        )
        if principal is None or principal.account != place.target.named.account:
            return False
        return principal.owner == place.key.owner

    cdef Form _form(self, Place place, first, Span authorization):
        """None for a request like which none is known to have been signed."""
        if authorization.size <= SIGNATURE:
            return None
        if place.form is not None and place.form.begins(authorization):
            return place.form
        start = PyBytes_FromStringAndSize(authorization.at, authorization.size - SIGNATURE)
        template = self._known_template((start, first, first.shape))
        if template is None:
            return None
        if template.compiled is None:
            template.compiled = Form(template, start)
        place.form = template.compiled
        return place.form

    cdef bint _is_new_signers(
        self, Place place, first, Span* values, Span authorization, const char* body, Py_ssize_t size
    ) except -1:
        """As _is_signers, for a request like which none is known to have been signed."""
        shape = first.shape
        told = [value_of(values, i) for i in range(len(shape.names))]
        principal = self._signer(
            FamiliarHead(first, shape, told, size),
            PyBytes_FromStringAndSize(body, size),
            place.target,
            PyBytes_FromStringAndSize(authorization.at, authorization.size),
        )
        return principal is not None and principal.owner == place.key.owner

    cdef int _begin(self, FastPassage passage) except -1:
        """Give the request its ids, and its place in a trace."""
        cdef const unsigned char* drawn = self._draw()
        cdef char* to = passage.id
        cdef unsigned char of_version[8]
        cdef unsigned char seconds[4]
        cdef unsigned int now
        memcpy(of_version, drawn + 4, 8)
        of_version[2] = (of_version[2] & 0x0F) | 0x40
        of_version[4] = (of_version[4] & 0x3F) | 0x80
        to = put_hex(to, drawn, 4)
        to[0] = c"-"
        to = put_hex(to + 1, of_version, 2)
        to[0] = c"-"
        to = put_hex(to + 1, of_version + 2, 2)
        to[0] = c"-"
        to = put_hex(to + 1, of_version + 4, 2)
        to[0] = c"-"
        put_hex(put_hex(to + 1, of_version + 6, 2), drawn + 12, 4)
        if passage.place.is_traced:
            passage.known_trace = self._tracer.begin(passage.head.headers)
            return 0
        now = <unsigned int>time(NULL)
        seconds[0], seconds[1], seconds[2], seconds[3] = now >> 24, now >> 16 & 255, now >> 8 & 255, now & 255
        put_hex(put_hex(passage.trace_id, seconds, 4), drawn + 16, 12)
        put_hex(passage.span_id, drawn + 28, 8)
        passage.sampled = True
        if self._ratio is not None:
            passage.sampled = <double>self._chance() < <double>self._ratio
            if passage.sampled:
                passage.known_trace = Trace(passage.trace_text(), passage.span_text(), True, True)
        return 0

    cdef const unsigned char* _draw(self) except NULL:
        """Random bytes for one request."""
        if PyBytes_GET_SIZE(self._random) - self._drawn < SPEND:
            self._random = os.urandom(SPEND * 256)
            self._drawn = 0
        self._drawn += SPEND
        return <const unsigned char*>PyBytes_AS_STRING(self._random) + self._drawn - SPEND

    cdef int _observe(self, FastPassage passage, double now, Py_ssize_t bytes_out) except -1:
        """As observer.Observer.passed."""
        cdef Place place = passage.place
        cdef double duration_s = now - passage.started_at
        cdef Py_ssize_t bytes_in = PyBytes_GET_SIZE(passage.data) - passage.head_size
        if self._add_written is None or place.log_before is None:
            self._observer.passed(passage, now, bytes_out)
            seat = passage.seat
            place.series = seat.series
            if seat.log_lines is not None:
                place.log_before, place.log_after = seat.log_lines.before_id.encode(), seat.log_lines.after_id.encode()
            return 0
        series = place.series
        series.invocations += 1
        series.latency_sum_s += duration_s
        series.latency_buckets[bucket_of(duration_s)] += 1
        series.bytes_in += bytes_in
        series.bytes_out += bytes_out
        line = passage.log_line(<double>self._wall(), <long long>(duration_s * 1e6), bytes_in, bytes_out)
        if 0 < len(self._lines) < MOST_LINES:
            self._lines.append(line)
        else:
            self._add_written(self._access_log, line)
        return 0

    cdef bytes _timestamp(self, long long second):
        if second != self._second:
            self._second = second
            self._stamp = stamp(second).encode()
        return self._stamp


cdef class FastPassage:
    """See passages.Passage."""

    cdef FastPassages fast
    cdef Place place
    cdef bytes data
    cdef Py_ssize_t head_size
    cdef object known_trace, known_head
    cdef char id[REQUEST_ID]
    cdef char trace_id[TRACE_ID]
    cdef char span_id[SPAN_ID]
    cdef bint sampled, has_waited
    cdef Client client
    cdef Agent agent
    cdef readonly object seat
    cdef readonly double started_at

    @property
    def connection(self):
        return self.client.connection

    @property
    def upstream(self):
        return self.agent.upstream

    @property
    def head(self):
        if self.known_head is None:
            self.known_head = self.fast._reader.read(self.data[: self.head_size])
        return self.known_head

    @property
    def body(self):
        return self.data[self.head_size :]

    @property
    def request_id(self):
        return PyUnicode_DecodeASCII(self.id, REQUEST_ID, NULL)

    @property
    def trace(self):
        if self.known_trace is None:
            self.known_trace = Trace(self.trace_text(), self.span_text(), self.sampled, False)
        return self.known_trace

    cdef str trace_text(self):
        return PyUnicode_DecodeASCII(self.trace_id, TRACE_ID, NULL)

    cdef str span_text(self):
        return PyUnicode_DecodeASCII(self.span_id, SPAN_ID, NULL)

    cdef char* put_trace(self, char* to) noexcept:
        """As Context.lines: TRACE_LINES bytes."""
        to = put_text(to, b"x-amzn-trace-id: Root=1-")
        to = put(to, self.trace_id, 8)
        to[0] = c"-"
        to = put(to + 1, self.trace_id + 8, 24)
        to = put_text(to, b";Parent=")
        to = put(to, self.span_id, SPAN_ID)
        to = put_text(to, b";Sampled=")
        to[0] = c"1" if self.sampled else c"0"
        to = put_text(to + 1, b"\r\ntraceparent: 00-")
        to = put(to, self.trace_id, TRACE_ID)
        to[0] = c"-"
        to = put(to + 1, self.span_id, SPAN_ID)
        to = put_text(to, b"-01" if self.sampled else b"-00")
        return put_text(to, b"\r\n")

    cdef bytes request(self):
        """All that the agent gets: as headers.AgentHead.with_body makes it."""
        cdef Place place = self.place
        cdef const char* body = PyBytes_AS_STRING(self.data) + self.head_size
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.data) - self.head_size
        cdef char number[NUMBER]
        cdef Py_ssize_t digits = put_number(number, size) - number
        cdef bytes lines = None if self.known_trace is None else self.known_trace.lines
        cdef Py_ssize_t traced = TRACE_LINES if lines is None else PyBytes_GET_SIZE(lines)
        cdef bytes made = PyBytes_FromStringAndSize(
            NULL,
            PyBytes_GET_SIZE(place.first) + REQUEST_ID + PyBytes_GET_SIZE(place.rest)
            + PyBytes_GET_SIZE(LENGTH_LINE) + digits + 2 + traced + 2 + size,
        )
        cdef char* to = PyBytes_AS_STRING(made)
        to = put_bytes(to, place.first)
        to = put(to, self.id, REQUEST_ID)
        to = put_bytes(to, place.rest)
        to = put_bytes(to, LENGTH_LINE)
        to = put(to, number, digits)
        to = put_text(to, b"\r\n")
        to = self.put_trace(to) if lines is None else put_bytes(to, lines)
        to = put_text(to, b"\r\n")
        put(to, body, size)
        return made

    cdef bint answered(self, bytes data) except -1:
        """See passages.Passage.answered."""
        cdef FastPassages fast = self.fast
        cdef Place place = self.place
        cdef const char* start = PyBytes_AS_STRING(data)
        cdef const char* end = start + PyBytes_GET_SIZE(data)
        cdef const char* body = head_end(start, end)
        cdef Py_ssize_t size
        cdef Span head
        cdef double now
        if body == NULL:
            self.widen()
            return False
        head.at, head.size, size = start, body - start, end - body
        if not is_same(head, fast._response):
            value = PyBytes_FromStringAndSize(start, head.size)
            known = fast._known_response(value)
            if known is None:
                self.widen()
                return False
            fast._response, fast._known = value, known
        known = fast._known
        if place.known is not known:
            place.known, place.kept = known, known.kept.get(place.rules)
        kept = place.kept
        if kept is None or known.length != size or not known.keep_alive or fast._host.draining:
            self.widen()
            return False
        now = fast._clock()
        self._passed(now)
        fast._observe(self, now, size)
        lines, has_trace = kept
        self.client.end(self._answer(lines, known.length_line, has_trace, body, size), now, fast._keep_alive_timeout)
        if fast._waiting:
            fast._serve(place.claim, now)
        return True

    cdef int _passed(self, double now) except -1:
        """As claims.Claims.passed."""
        claim = self.place.claim
        claim.in_flight -= 1
        upstream = self.agent.upstream
        claim.idle_since = upstream.idle_since = now
        if claim.ended is None and len(claim.idle) < self.fast._max_idle:
            upstream.sink = None
            upstream.is_reused = True
            claim.idle.append(upstream)
        else:
            upstream.leave()
        return 0

    cdef bytes _answer(self, bytes lines, bytes length_line, bint has_trace, const char* body, Py_ssize_t size):
        cdef bytes date = self.fast._sweeper.http_date
        cdef bytes answer_lines = self.place.answer_lines
        cdef bytes trace_lines = None if self.known_trace is None else self.known_trace.lines
        cdef Py_ssize_t traced = 0
        if has_trace:
            trace_lines = b""
        elif trace_lines is None:
            traced = TRACE_LINES
        else:
            traced = PyBytes_GET_SIZE(trace_lines)
        cdef bytes made = PyBytes_FromStringAndSize(
            NULL,
            PyBytes_GET_SIZE(OK_LINE) + PyBytes_GET_SIZE(lines) + PyBytes_GET_SIZE(length_line) + traced
            + PyBytes_GET_SIZE(answer_lines) + PyBytes_GET_SIZE(REQUEST_ID_LINE) + REQUEST_ID
            + PyBytes_GET_SIZE(DATE_LINE) + PyBytes_GET_SIZE(date) + 4 + size,
        )
        cdef char* to = PyBytes_AS_STRING(made)
        to = put_bytes(to, OK_LINE)
        to = put_bytes(to, lines)
        to = put_bytes(to, length_line)
        to = self.put_trace(to) if trace_lines is None else put_bytes(to, trace_lines)
        to = put_bytes(to, answer_lines)
        to = put_bytes(to, REQUEST_ID_LINE)
        to = put(to, self.id, REQUEST_ID)
        to = put_bytes(to, DATE_LINE)
        to = put_bytes(to, date)
        to = put_bytes(to, HEAD_END)
        put(to, body, size)
        return made

    cdef str log_line(self, double wall, long long us, Py_ssize_t bytes_in, Py_ssize_t bytes_out):
        """As access_log.AccessLog writes it."""
        cdef Place place = self.place
        cdef long long second = <long long>wall
        cdef bytes stamp = self.fast._timestamp(second)
        cdef bytes made = PyBytes_FromStringAndSize(
            NULL, PyBytes_GET_SIZE(place.log_before) + PyBytes_GET_SIZE(place.log_after) + PyBytes_GET_SIZE(stamp) + LINE
        )
        cdef char* start = PyBytes_AS_STRING(made)
        cdef char* to = put_bytes(start, place.log_before)
        cdef bytes trace_id
        to = put(to, self.id, REQUEST_ID)
        to = put_bytes(to, place.log_after)
        to = put_text(to, b',"bytes_in":')
        to = put_number(to, bytes_in)
        to = put_text(to, b',"bytes_out":')
        to = put_number(to, bytes_out)
        to = put_text(to, b',"duration_ms":')
        to = put_ms(to, us)
        to = put_text(to, b',"first_byte_ms":')
        to = put_ms(to, us)
        to = put_text(to, b',"trace_id":"')
        if self.known_trace is None:
            to = put(to, self.trace_id, TRACE_ID)
        else:
            trace_id = self.known_trace.trace_id.encode()
            to = put_bytes(to, trace_id)
        to = put_text(to, b'","event":"request","level":"info","timestamp":"')
        to = put_bytes(to, stamp)
        to = put_padded(to, <long long>((wall - second) * 1e6), 6)
        to = put_text(to, b'Z"}')
        return PyUnicode_DecodeUTF8(start, to - start, NULL)

    def widen(self):
        """See passages.Passage.widen. Also of one that waits, to which nothing has been sent."""
        if self.agent is not None:
            return self.fast._passages.widen(self)
        self.fast._waiting.remove(self)
        return self.fast._passages.dial(self)

    # -- Sink: see passages.Passage ---------------------------------------------------------------------------------

    def response_head(self, head):
        self.widen().response_head(head)

    def response_body(self, raw):
        raise AssertionError("a response begins with its head")

    def response_end(self):
        raise AssertionError("a response begins with its head")

    def response_failed(self, why):
        self.widen().response_failed(why)

    def upstream_writable(self):
        """All that there is has been written."""
