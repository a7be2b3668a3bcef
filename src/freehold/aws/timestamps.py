"""Timestamps on the wire: three formats, read strictly and written.

For: `aws.parse` and `aws.serialize`. Not for clocks. Invariant: what is read is an aware datetime in UTC; what is
written is read back to the microsecond (`rfc822`: to the second).
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Final

from freehold.aws.model import Location, Member, Shape, TimestampFormat

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ISO: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)
_HTTP_DATE: Final = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")
_NUMBER: Final = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DEFAULTS: Final[dict[Location, TimestampFormat]] = {
    "header": "rfc822",
    "querystring": "iso8601",
    "uri": "iso8601",
    "body": "unixTimestamp",
}


def format_of(shape: Shape, member: Member | None) -> TimestampFormat:
    """The format of a timestamp: its member's, its shape's, or that of its location."""
    location: Location = "body" if member is None else member.location
    said = member.timestamp_format if member is not None else ""
    return said or shape.timestamp_format or _DEFAULTS[location]


def read(value: str | int | float, fmt: TimestampFormat) -> datetime:
    """The instant; a number for `unixTimestamp` (in text for paths, queries and headers). Raises ValueError."""
    try:
        if fmt == "unixTimestamp":
            return _read_unix(value)
        if not isinstance(value, str):
            raise ValueError("not a string")
        return _read_iso(value) if fmt == "iso8601" else _read_http_date(value)
    except OverflowError:
        raise ValueError("out of range") from None


def write(value: datetime, fmt: TimestampFormat) -> str | int | float:
    """As `read` takes it. `value` must be aware."""
    if value.tzinfo is None:
        raise ValueError(f"a timestamp without a time zone: {value!r}")
    if fmt == "unixTimestamp":
        seconds = value.timestamp()
        return seconds if value.microsecond else int(seconds)
    at = value.astimezone(UTC)
    if fmt == "rfc822":
        return format_datetime(at, usegmt=True)
    return at.replace(tzinfo=None).isoformat() + "Z"


def _read_unix(value: str | int | float) -> datetime:
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            raise ValueError("not a number of seconds")
        whole, _, fraction = value.partition(".")
        sign = -1 if whole.startswith("-") else 1
        microseconds = sign * int((fraction + "000000")[:6]) if fraction else 0
        return _EPOCH + timedelta(seconds=int(whole), microseconds=microseconds)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a number of seconds")
    return _EPOCH + timedelta(seconds=value)


def _read_iso(value: str) -> datetime:
    found = _ISO.fullmatch(value)
    if found is None:
        raise ValueError("not an ISO 8601 date and time with a time zone")
    date, time, fraction, sign, hours, minutes = found.groups()
    at = datetime.fromisoformat(f"{date}T{time}").replace(tzinfo=UTC)
    if fraction:
        at = at.replace(microsecond=int((fraction + "000000")[:6]))
    if sign:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        at = at - offset if sign == "+" else at + offset
    return at


def _read_http_date(value: str) -> datetime:
    if not _HTTP_DATE.fullmatch(value) or value[8:11] not in _MONTHS:
        raise ValueError("not an HTTP date")
    hour, minute, second = (int(part) for part in value[17:25].split(":"))
    month = _MONTHS.index(value[8:11]) + 1
    return datetime(int(value[12:16]), month, int(value[5:7]), hour, minute, second, tzinfo=UTC)
