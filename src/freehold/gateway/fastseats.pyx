# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""What `familiar`, `seats` and `aws.sigv4_template` remember, in the form that `fastpath` needs it in: places of bytes.

Each is made once of what it stands for, and lives as long as that (`compiled` there). Not for finding any of it, and not
for deciding: a request that is not just like those before it is not read here.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp

from freehold.aws.sigv4 import SIGNATURE_SIZE
from freehold.gateway.octets cimport Span, is_ascii, is_plain, is_value, put, put_bytes

SIGNATURE = SIGNATURE_SIZE


cdef class Layout:
    """A familiar.Shape."""

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

    def __cinit__(self, seat):
        self.standing, self.claim, self.key = seat.target.standing, seat.claim, seat.key
        self.rules, self.target = seat.rules, seat.target
        self.first, self.rest = seat.agent_head.first, seat.agent_head.rest
        self.answer_lines = seat.answer_lines
        self.by_token, self.is_traced = seat.by_token, seat.is_traced
        self.key_set = seat.target.contract.authorizer.key_set if seat.by_token else None
        self.sent = self.keys = self.known = self.kept = None
        self.good_until = 0.0
