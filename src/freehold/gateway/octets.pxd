# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Bytes as the compiled short ways read and write them: nothing here makes an object, but what `value_of` says.

For: `fastpath` and `fastseats`. Whoever writes has made the room that it takes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy, strlen

cdef enum:
    NUMBER = 24  # the longest number as text, and some


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
    cdef const char* HEX = b"0123456789abcdef"
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
