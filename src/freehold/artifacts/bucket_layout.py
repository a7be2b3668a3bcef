"""How objects of local buckets lie on disk, for those who write them (`control.buckets`) and those who read them.

An object is the file `<root>/<bucket>/<key>`; anybody may put one there by hand. An upload also keeps a copy as
`<root>/.versions/<bucket>/<SHA-256 of the key>/<version id>`: beside the buckets, so that no key can name it, and a
copy, so that writing into the object's file by hand changes no version. Invariant: names made here have no part that
leads anywhere but down.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from typing import Final

MAX_KEY_BYTES: Final = 1024
MAX_PART_BYTES: Final = 255
UPLOADS: Final = ".uploads"
"""Unfinished uploads. In the same file system as the buckets; no bucket's name begins with a dot."""
VERSIONS: Final = ".versions"
NO_VERSION: Final = "null"
"""What S3 calls the version of an object that was put without one: here, the file at the object's own place."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VERSION = re.compile(r"[0-9a-f]{32}")


class BadName(Exception):
    """No object can have this name. `member` is `bucket` or `key`; `rule` says what it breaks."""

    def __init__(self, member: str, rule: str) -> None:
        super().__init__(f"{member}: {rule}")
        self.member = member
        self.rule = rule


def object_parts(bucket: str, key: str) -> list[str]:
    """The directories below the root and the file of an object. Raises BadName."""
    if not _BUCKET.fullmatch(bucket):
        raise BadName("bucket", f"a bucket's name has the form {_BUCKET.pattern}")
    try:
        raw = key.encode()
    except UnicodeEncodeError:
        raise BadName("key", "a key is UTF-8 text") from None
    if not key or len(raw) > MAX_KEY_BYTES:
        raise BadName("key", f"a key has 1 to {MAX_KEY_BYTES} bytes")
    if _CONTROL.search(key):
        raise BadName("key", "a key holds no control characters")
    parts = key.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > MAX_PART_BYTES for part in parts):
        raise BadName("key", f"the parts of a key between '/' are 1 to {MAX_PART_BYTES} bytes and not '.' or '..'")
    return [bucket, *parts]


def versions_parts(bucket: str, key: str) -> list[str]:
    """The directories below the root that hold an object's versions. Raises BadName."""
    object_parts(bucket, key)
    return [VERSIONS, bucket, hashlib.sha256(key.encode()).hexdigest()]


def is_version_id(text: str) -> bool:
    """Whether an upload could have been given this version id."""
    return _VERSION.fullmatch(text) is not None


def new_version_id(existing: Iterable[str], now_ns: int) -> str:
    """An id that sorts after `existing`, whatever the clock has done since, and that can't be guessed."""
    latest = max((int(version[:16], 16) for version in existing), default=0)
    return f"{max(now_ns, latest + 1):016x}{secrets.token_hex(8)}"
