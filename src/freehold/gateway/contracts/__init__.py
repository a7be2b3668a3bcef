"""The agent protocols that the gateway can relay."""

from __future__ import annotations

from typing import Final

from freehold.domain.runtimes import ServerProtocol
from freehold.gateway.contracts import agui, http
from freehold.gateway.contracts.base import Rules

REGISTRY: Final[dict[ServerProtocol, Rules]] = {ServerProtocol.HTTP: http.RULES, ServerProtocol.AGUI: agui.RULES}
