"""Both forms of the gateway's short ways, for tests of what must not differ between them."""

from __future__ import annotations

import pytest

from freehold.gateway import fast
from freehold.gateway.fast import Compiled

FORMS = ("compiled", "python")


def of(name: str) -> Compiled | None:
    """That of FORMS, for fast.choose."""
    if name == "python":
        return None
    built = fast.load()
    if built is None:
        pytest.skip("the gateway's fast path has not been compiled: ./dev setup does, where there is a C compiler")
    return built
