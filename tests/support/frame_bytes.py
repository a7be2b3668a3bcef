"""Frames of WebSockets as bytes, bad ones too: `websockets` makes none, and masks each otherwise."""

from __future__ import annotations

from websockets.utils import apply_mask

KEY = b"\x01\x80\x37\xfe"


def raw(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    width: int | None = None,
    announced: int | None = None,
) -> bytes:
    """A frame as bytes; `width` is how many bytes beside the first two tell its length."""
    length = len(payload) if announced is None else announced
    if width is None:
        width = 0 if length < 126 else 2 if length < 65536 else 8
    mask_bit = 0x80 if masked else 0
    head = bytes((opcode | (0x80 if fin else 0) | reserved, mask_bit | {0: length & 0x7F, 2: 126, 8: 127}[width]))
    head += length.to_bytes(width) if width else b""
    return head + KEY + apply_mask(payload, KEY) if masked else head + payload
