"""What operations of the control plane are made of: what they work with, take and answer.

An operation is one function: synchronous, run in a worker thread, from validated parameters to an Outcome, which says
what the event loop has to do before the answer goes out. Not for any one resource. Invariant: an operation returns
only what the store has kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from freehold.control.certificates import Certificates
from freehold.control.lines import Lines
from freehold.control.paging import Pages
from freehold.control.reach import PUBLIC_INTERNET, Reach
from freehold.control.reconciler import Preparer, Work
from freehold.domain import limits
from freehold.store.base import Once, Scope, Store

DEFAULT_PAGE: Final = 100
"""Lines of a page when maxResults is not given (spec section 3.6)."""
_canonical = msgspec.json.Encoder(order="sorted")

Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """What operations work with."""

    store: Store
    preparer: Preparer
    pages: Pages
    now: Callable[[], datetime]
    reach: Reach = PUBLIC_INTERNET
    """Where authorizers' documents and keys may be."""
    certificates: Certificates | None = None
    lines: Lines = field(default_factory=Lines)
    max_runtimes: int = limits.MAX_RUNTIMES
    max_versions: int = limits.MAX_VERSIONS_PER_RUNTIME
    max_endpoints: int = limits.MAX_ENDPOINTS_PER_RUNTIME


@dataclass(frozen=True, slots=True)
class Outcome:
    """The operation's output, and what comes before it is sent."""

    output: dict[str, Any]
    shown: tuple[str, ...] = ()
    """Runtimes whose routes the output tells of: what it claims must be true at the gateways."""
    work: Work | None = None
    """Something for the reconciler."""


Operation = Callable[[Context, Scope, Params], Outcome]


def once(operation: str, params: Params) -> Once | None:
    """The caller's wish that this call takes effect once, if there is a client token."""
    token = params.get("clientToken")
    if token is None:
        return None
    rest = {name: value for name, value in params.items() if name != "clientToken"}
    return Once(operation, token, hashlib.sha256(_canonical.encode(rest)).hexdigest())
