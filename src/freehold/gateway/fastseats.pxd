from freehold.gateway.octets cimport Span

cdef enum:
    MOST_HEADERS = 64  # familiar.MAX_SHAPE_HEADERS

cdef Py_ssize_t SIGNATURE


cdef class Layout:
    cdef tuple names  # keeps what `name` points to
    cdef const char* name[MOST_HEADERS]
    cdef Py_ssize_t size[MOST_HEADERS]
    cdef int count, host, length, connection

    cdef const char* read(self, const char* at, const char* end, Span* values) noexcept


cdef class Sight:
    cdef object view
    cdef int authorization, count, bounded_count
    cdef int told[MOST_HEADERS]
    cdef int bounded[MOST_HEADERS]
    cdef Py_ssize_t most[MOST_HEADERS]

    cdef object key(self, object first, Span* values)
    cdef bint is_bounded(self, Span* values) noexcept


cdef class Form:
    cdef object template
    cdef bytes start, before, after
    cdef tuple starts
    cdef int count, stamp, token, claimed
    cdef int at[MOST_HEADERS]

    cdef bint begins(self, Span authorization) noexcept
    cdef bytes canonical(self, Span* values, bytes payload_sha256)


cdef class Place:
    cdef object standing, claim, key, rules, target, series, key_set, sent, keys, known, kept
    cdef bytes first, rest, answer_lines, log_before, log_after
    cdef bint by_token, is_traced
    cdef double good_until
    cdef Form form
