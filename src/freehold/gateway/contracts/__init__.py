"""The agent protocols that the gateway relays."""

from __future__ import annotations

from typing import Final

from freehold.domain.runtimes import ServerProtocol
from freehold.gateway.contracts import a2a, agui, http, mcp
from freehold.gateway.contracts.base import Rules

REGISTRY: Final[dict[ServerProtocol, Rules]] = {
    ServerProtocol.HTTP: http.RULES,
    ServerProtocol.MCP: mcp.RULES,
    ServerProtocol.A2A: a2a.RULES,
    ServerProtocol.AGUI: agui.RULES,
}
