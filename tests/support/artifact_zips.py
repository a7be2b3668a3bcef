"""Zips made by hand, byte for byte, so that they can lie about anything."""

from __future__ import annotations

import functools
import struct
import zlib
from dataclasses import dataclass

UNIX = 3
DOS = 0


@dataclass
class Item:
    """One entry. What is None is told truthfully."""

    name: bytes
    data: bytes = b""
    mode: int = 0o100644
    host: int = UNIX
    method: int = 8
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    local_name: bytes | None = None
    at: int | None = None
    """Where the directory says that the local header is."""
    deflated: bytes | None = None
    """The data as it stands in the zip, when that is known already."""


def zeros(name: bytes, mebibytes: int, **told: int) -> Item:
    """An entry of nothing but zeros."""
    deflated, crc = _zeros(mebibytes)
    return Item(name, deflated=deflated, **{"crc": crc, "size": mebibytes << 20, **told})


@functools.cache
def _zeros(mebibytes: int) -> tuple[bytes, int]:
    """One mebibyte deflated once, and that over and over; and its checksum."""
    one, deflater = bytes(1 << 20), zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    piece = deflater.compress(one) + deflater.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(mebibytes):
        crc = zlib.crc32(one, crc)
    return piece * mebibytes + deflater.flush(), crc


def packed(item: Item) -> bytes:
    if item.deflated is not None:
        return item.deflated
    if item.method != 8:
        return item.data
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(item.data) + deflater.flush()


def craft(items: list[Item], *, count: int | None = None, before: bytes = b"", comment: bytes = b"") -> bytes:
    body, directory = bytearray(before), bytearray()
    for item in items:
        offset = len(body)
        data = packed(item)
        crc = zlib.crc32(item.data) if item.crc is None else item.crc
        size = len(item.data) if item.size is None else item.size
        name = item.name if item.local_name is None else item.local_name
        fields = (20, item.flags, item.method, 0, 0x21, crc, len(data), size)
        body += struct.pack("<4s5H3L2H", b"PK\x03\x04", *fields, len(name), 0) + name + data
        where = offset if item.at is None else item.at
        directory += struct.pack(
            "<4s2B5H3L5H2L",
            *(b"PK\x01\x02", 20, item.host),
            *fields,
            *(len(item.name), 0, 0, 0, 0, item.mode << 16, where),
        )
        directory += item.name
    number = len(items) if count is None else count
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, number, number, len(directory), len(body), len(comment))
    return bytes(body + directory + end + comment)
