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
from libc.string cimport memchr, memcmp, memcpy, strlen
from libc.time cimport time

from freehold.aws.sigv4 import SIGNATURE_SIZE
from freehold.gateway import heads
from freehold.gateway.claims import SHORTEST_S
from freehold.gateway.familiar import FamiliarHead
from freehold.observe.access_log import stamp
from freehold.observe.counts import LATENCY_BOUNDS_S
from freehold.observe.tracing import Trace

cdef enum:
    MOST_HEADERS = 64  # familiar.MAX_SHAPE_HEADERS
    REQUEST_ID = 36
    TRACE_ID = 32
    SPAN_ID = 16
    SPEND = 16 + 12 + 8  # random bytes of one request
    NUMBER = 24  # the longest number as text, and some
    LINE = 400  # of a line in the access log, what all requests write: names, ids and numbers, and some
    MOST_BOUNDS = 32

cdef Py_ssize_t SIGNATURE = SIGNATURE_SIZE
cdef int MAX_LENGTH_DIGITS = heads.MAX_LENGTH_DIGITS
cdef double SHORTEST = SHORTEST_S
cdef Py_ssize_t TRACE_LINES = len(Trace("0" * TRACE_ID, "0" * SPAN_ID, False, False).lines)
cdef int BOUNDS = len(LATENCY_BOUNDS_S)
cdef double[MOST_BOUNDS] BOUND_S
for _at, _bound in enumerate(LATENCY_BOUNDS_S):
    BOUND_S[_at] = _bound
cdef const char* HEX = b"0123456789abcdef"
cdef bytes OK_LINE = b"HTTP/1.1 200 OK\r\n"
cdef bytes REQUEST_ID_LINE = b"x-amzn-requestid: "
cdef bytes DATE_LINE = b"\r\ndate: "
cdef bytes HEAD_END = b"\r\n\r\n"
cdef bytes LENGTH_LINE = b"content-length: "


# -- bytes ------------------------------------------------------------------------------------------------------------

cdef struct Span:
    const char* at
    Py_ssize_t size


cdef inline char* put(char* to, const char* what, Py_ssize_t size) noexcept:
    memcpy(to, what, size)
    return to + size


cdef inline char* put_text(char* to, const char* what) noexcept:
    return put(to, what, strlen(what))


cdef inline char* put_bytes(char* to, bytes what) noexcept:
    return put(to, PyBytes_AS_STRING(what), PyBytes_GET_SIZE(what))


cdef inline char* put_hex(char* to, const unsigned char* what, Py_ssize_t size) noexcept:
    cdef Py_ssize_t i
    for i in range(size):
        to[0] = HEX[what[i] >> 4]
        to[1] = HEX[what[i] & 15]
        to += 2
    return to


cdef inline char* put_number(char* to, long long number) noexcept:
    """Not negative."""
    cdef char[NUMBER] digits
    cdef int used = 0
    while True:
        digits[used] = <char>(48 + number % 10)
        used += 1
        number //= 10
        if number == 0:
            break
    while used:
        used -= 1
        to[0] = digits[used]
        to += 1
    return to


cdef inline char* put_padded(char* to, long long number, int digits) noexcept:
    """The last `digits` of a number, with zeros before it."""
    cdef int i
    for i in range(digits - 1, -1, -1):
        to[i] = <char>(48 + number % 10)
        number //= 10
    return to + digits


cdef inline char* put_ms(char* to, long long us) noexcept:
    """Microseconds as milliseconds, the way Python writes a float."""
    to = put_number(to, us // 1000)
    to[0] = c"."
    to = put_padded(to + 1, us % 1000, 3)
    while (to - 1)[0] == c"0" and (to - 2)[0] != c".":
        to -= 1
    return to


cdef inline bint is_value(const char* at, Py_ssize_t size) noexcept:
    """Whether there are no control characters but tabs."""
    cdef Py_ssize_t i
    cdef unsigned char byte, bad = 0
    for i in range(size):
        byte = <unsigned char>at[i]
        bad |= ((byte < 32) & (byte != 9)) | (byte == 127)
    return not bad


cdef inline bint is_ascii(const char* at, Py_ssize_t size) noexcept:
    cdef Py_ssize_t i
    cdef unsigned char found = 0
    for i in range(size):
        found |= <unsigned char>at[i]
    return found < 128


cdef inline bint is_plain(const char* at, Py_ssize_t size) noexcept:
    """Whether a value without control characters but tabs is, in a canonical request, what it is here."""
    cdef Py_ssize_t i
    if size and (at[0] == c" " or at[size - 1] == c" "):
        return False
    for i in range(size):
        if at[i] == c"\t" or (at[i] == c" " and at[i + 1] == c" "):
            return False
    return True


cdef inline bytes value_of(Span* values, int at):
    """None when there is none."""
    return None if at < 0 else PyBytes_FromStringAndSize(values[at].at, values[at].size)


cdef inline bint is_same(Span span, bytes other) noexcept:
    return span.size == PyBytes_GET_SIZE(other) and memcmp(span.at, PyBytes_AS_STRING(other), span.size) == 0


cdef inline bint is_same_secret(Span span, bytes other) noexcept:
    """As is_same, in a time that says nothing of where they differ."""
    cdef const char* known = PyBytes_AS_STRING(other)
    cdef unsigned char differs = 0
    cdef Py_ssize_t i
    if span.size != PyBytes_GET_SIZE(other):
        return False
    for i in range(span.size):
        differs |= <unsigned char>(span.at[i] ^ known[i])
    return differs == 0


cdef inline int bucket_of(double duration_s) noexcept:
    """As bisect_left in LATENCY_BOUNDS_S."""
    cdef int at = 0
    while at < BOUNDS and BOUND_S[at] < duration_s:
        at += 1
    return at


cdef inline const char* head_end(const char* at, const char* end) noexcept:
    """After the first blank line; NULL when there is none."""
    cdef const char* found
    while end - at >= 4:
        found = <const char*>memchr(at, c"\r", end - at - 3)
        if found == NULL:
            return NULL
        if found[1] == c"\n" and found[2] == c"\r" and found[3] == c"\n":
            return found + 4
        at = found + 1
    return NULL


# -- what is remembered, in the form that is needed here --------------------------------------------------------------


cdef class Layout:
    """A familiar.Shape."""

    cdef tuple names  # keeps what `name` points to
    cdef const char* name[MOST_HEADERS]
    cdef Py_ssize_t size[MOST_HEADERS]
    cdef int count, host, length, connection

    def __cinit__(self, shape):
        self.names = shape.as_sent
        self.count = len(self.names)
        assert self.count <= MOST_HEADERS
        for i in range(self.count):
            self.name[i] = PyBytes_AS_STRING(<bytes>self.names[i])
            self.size[i] = PyBytes_GET_SIZE(<bytes>self.names[i])
        self.host, self.length, self.connection = shape.host, shape.length, shape.connection

    cdef const char* read(self, const char* at, const char* end, Span* values) noexcept:
        """Values of the header lines at `at`, as Shape.pattern finds them; where the head ends, or NULL."""
        cdef int i
        cdef Py_ssize_t size
        cdef const char* value_end
        for i in range(self.count):
            size = self.size[i]
            if end - at <= size or at[size] != c":" or memcmp(at, self.name[i], size) != 0:
                return NULL
            at += size + 1
            while at < end and (at[0] == c" " or at[0] == c"\t"):
                at += 1
            value_end = <const char*>memchr(at, c"\r", end - at)
            if value_end == NULL or end - value_end < 2 or value_end[1] != c"\n":
                return NULL
            if not is_value(at, value_end - at):
                return NULL
            values[i].at, values[i].size = at, value_end - at
            at = value_end + 2
        if end - at < 2 or at[0] != c"\r" or at[1] != c"\n":
            return NULL
        return at + 2


cdef class Sight:
    """A seats.View."""

    cdef object view
    cdef int authorization, count, bounded_count
    cdef int told[MOST_HEADERS]
    cdef int bounded[MOST_HEADERS]
    cdef Py_ssize_t most[MOST_HEADERS]

    def __cinit__(self, view):
        self.view = view
        self.authorization = view.authorization
        self.count = len(view.told_at)
        for i, at in enumerate(view.told_at):
            self.told[i] = at
        self.bounded_count = len(view.bounded)
        for i, (at, most) in enumerate(view.bounded):
            self.bounded[i], self.most[i] = at, most

    cdef object key(self, object first, Span* values):
        """What the seat is found by: as seats.Seats makes it."""
        cdef int i
        cdef list told
        if self.count == 1:
            return (first, self.view, PyBytes_FromStringAndSize(values[self.told[0]].at, values[self.told[0]].size))
        told = []
        for i in range(self.count):
            told.append(PyBytes_FromStringAndSize(values[self.told[i]].at, values[self.told[i]].size))
        return (first, self.view, tuple(told))

    cdef bint is_bounded(self, Span* values) noexcept:
        cdef int i
        for i in range(self.bounded_count):
            if values[self.bounded[i]].size > self.most[i]:
                return False
            if not is_ascii(values[self.bounded[i]].at, values[self.bounded[i]].size):
                return False
        return True


cdef class Form:
    """A sigv4_template.Template, and what the Authorization header of such requests begins with."""

    cdef object template
    cdef bytes start, before, after
    cdef tuple starts
    cdef int count, stamp, token, claimed
    cdef int at[MOST_HEADERS]

    def __cinit__(self, template, start):
        self.template, self.start = template, start
        self.before, self.after, self.starts = template.before, template.after, template.starts
        self.count = len(template.at)
        assert self.count <= MOST_HEADERS
        for i in range(self.count):
            self.at[i] = template.at[i]
        self.stamp, self.token, self.claimed = template.stamp, template.token, template.claimed

    cdef bint begins(self, Span authorization) noexcept:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.start)
        return authorization.size == size + SIGNATURE and memcmp(
            authorization.at, PyBytes_AS_STRING(self.start), size
        ) == 0

    cdef bytes canonical(self, Span* values, bytes payload_sha256):
        """As Template.canonical; None when a value is not there as it stands."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.before) + PyBytes_GET_SIZE(self.after)
        cdef int i
        for i in range(self.count):
            if not is_plain(values[self.at[i]].at, values[self.at[i]].size):
                return None
            size += PyBytes_GET_SIZE(<bytes>self.starts[i]) + values[self.at[i]].size + 1
        cdef bytes made = PyBytes_FromStringAndSize(NULL, size + PyBytes_GET_SIZE(payload_sha256))
        cdef char* to = put_bytes(PyBytes_AS_STRING(made), self.before)
        for i in range(self.count):
            to = put_bytes(to, <bytes>self.starts[i])
            to = put(to, values[self.at[i]].at, values[self.at[i]].size)
            to[0] = c"\n"
            to += 1
        put_bytes(put_bytes(to, self.after), payload_sha256)
        return made


cdef class Place:
    """A seats.Seat, and the last token that was good for it, or the form of its last signature."""

    cdef object standing, claim, key, rules, target, series, key_set, sent, keys
    cdef bytes first, rest, answer_lines, log_before, log_after
    cdef bint by_token, is_traced
    cdef double good_until
    cdef Form form

    def __cinit__(self, seat):
        self.standing, self.claim, self.key = seat.target.standing, seat.claim, seat.key
        self.rules, self.target = seat.rules, seat.target
        self.first, self.rest = seat.agent_head.first, seat.agent_head.rest
        self.answer_lines = seat.answer_lines
        self.by_token, self.is_traced = seat.by_token, seat.is_traced
        self.key_set = seat.target.contract.authorizer.key_set if seat.by_token else None
        self.sent = self.keys = None
        self.good_until = 0.0


# -- requests ---------------------------------------------------------------------------------------------------------


cdef class FastPassages:
    """Takes requests, if they are such; hands to `passages` what may be but is not familiar enough."""

    cdef object _passages, _invocations, _host, _reader, _hosts, _claims, _sweeper, _observer, _clock, _tracer, _ratio
    cdef object _chance, _verdict, _current_keys, _signer, _signer_of, _known_template, _date, _known_response
    cdef object _access_log, _wall, _add_written
    cdef object _first, _known
    cdef bytes _line, _host_value, _response, _random
    cdef Py_ssize_t _drawn
    cdef Py_ssize_t _max_payload, _max_idle
    cdef double _first_byte_timeout
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
        self._verdict, self._current_keys, self._signer = (
            callers.bearer_at_once, callers.current_keys, callers.signer_at_once
        )
        self._signer_of, self._known_template, self._date = callers.signer, callers.known_template, callers.now
        self._known_response = passages.known_response
        self._access_log = passages.observer.access_log
        self._wall = self._add_written = None
        if self._access_log is not None and self._access_log.json_lines:
            self._wall, self._add_written = self._access_log.wall, passages.observer.add_written
        self._line = self._host_value = self._response = self._random = b""
        self._drawn = 0
        self._max_payload, self._max_idle = limits.max_payload_bytes, limits.max_idle_connections
        self._first_byte_timeout = limits.first_byte_timeout_s
        self._second = -1
        self._stamp = b""

    def take(self, connection, bytes data):
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
            return self._passages.take(connection, data)
        size = end - at
        if size > self._max_payload or not self._is_read(layout, values, size):
            return False
        view = seats.views.get(shape)
        if view is None or not view.told_at:
            return False
        sight = view.compiled
        if sight is None:
            sight = view.compiled = Sight(view)
        seat = seats.of(sight.key(first, values))
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
        passage.fast, passage.connection, passage.seat, passage.place = self, connection, seat, place
        passage.data, passage.head_size, passage.started_at = data, at - start, now
        if place.by_token:
            if not self._is_bearers(place, values[sight.authorization], now):
                return False
        elif not self._is_signers(place, first, values, values[sight.authorization], at, size):
            return False
        upstream = self._idle(claim, now)
        if upstream is None:
            return self._passages.take(connection, data)
        passage.upstream = upstream
        claim.in_flight += 1
        claim.requests += 1
        self._begin(passage)
        connection.begin_passage(passage, now + self._first_byte_timeout)
        upstream.begin_passage(passage, passage.request(at, size))
        if passage.known_trace is not None and passage.known_trace.recorded:
            passage.widen()
        return True

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
        first = self._reader.first_lines.get(line)
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
            if self._current_keys(place.key_set) is place.keys:
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
        cdef unsigned int now
        cdef int i
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
        for i in range(8):
            passage.trace_id[7 - i] = HEX[now & 15]
            now >>= 4
        put_hex(passage.trace_id + 8, drawn + 16, 12)
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
    cdef bint sampled
    cdef readonly object connection, upstream, seat
    cdef readonly double started_at

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

    cdef bytes request(self, const char* body, Py_ssize_t size):
        """All that the agent gets: as headers.AgentHead.with_body makes it."""
        cdef Place place = self.place
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

    def answered(self, bytes data):
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
        kept = known.kept.get(place.rules)
        if kept is None or known.length != size or not known.keep_alive or fast._host.draining:
            self.widen()
            return False
        now = fast._clock()
        self._passed(now)
        fast._observe(self, now, size)
        lines, has_trace = kept
        self.connection.end_passage(self._answer(lines, known.length_line, has_trace, body, size), now)
        return True

    cdef int _passed(self, double now) except -1:
        """As claims.Claims.passed."""
        claim = self.place.claim
        claim.in_flight -= 1
        claim.idle_since = self.upstream.idle_since = now
        if claim.ended is None and len(claim.idle) < self.fast._max_idle:
            self.upstream.end_passage()
            claim.idle.append(self.upstream)
        else:
            self.upstream.leave()
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
        """See passages.Passage.widen."""
        return self.fast._passages.widen(self)

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
