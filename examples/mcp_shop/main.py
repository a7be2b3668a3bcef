"""An MCP server of a small coffee shop: tools that ask back, a resource, a prompt. No model behind it: the client's.

`stock` lists what there is, `order` takes some of it and asks the user first where it is a lot, `describe` has the
client's model write a text, `roast` tells how far it is. Orders are kept in memory, which lives as long as the session.
Invariant: an order is taken whole or not at all, and never without the user's word where that is needed.
"""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Any

from mcp.server.mcpserver import Context, Elicit, MCPServer, Resolve, Sample
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CreateMessageResult, SamplingMessage, TextContent, ToolAnnotations
from pydantic import BaseModel, Field

PACE_S = float(os.environ.get("AGENT_PACE_S", "0.02"))
MANY = 10
"""Bags from which on the user is asked."""

mcp = MCPServer("coffee shop", instructions="Look at the stock before you order.")
stock_left = {"espresso": 40, "filter": 25, "decaf": 3}
orders: list[dict[str, Any]] = []


class Confirmation(BaseModel):
    """What the user is asked about a large order."""

    confirm: bool = Field(description="Whether to order that many")


async def confirmation(item: str, quantity: int) -> Confirmation | Elicit[Confirmation]:
    """The user's word, asked for only where it is needed."""
    if quantity < MANY or quantity > stock_left.get(item, 0):
        return Confirmation(confirm=True)
    return Elicit(f"Really order {quantity} bags of {item}?", Confirmation)


async def praise(item: str) -> Sample:
    """What the client's model is asked."""
    question = TextContent(type="text", text=f"Praise our {item} in one sentence.")
    return Sample([SamplingMessage(role="user", content=question)], max_tokens=100)


@mcp.tool(annotations=ToolAnnotations(read_only_hint=True))
def stock() -> dict[str, int]:
    """How many bags there are of each coffee."""
    return stock_left


@mcp.tool()
def order(item: str, quantity: int, confirmed: Annotated[Confirmation, Resolve(confirmation)]) -> str:
    """Order bags of a coffee. Large orders are confirmed by the user."""
    left = stock_left.get(item)
    if left is None:
        raise ToolError(f"There is no {item}: see the stock")
    if not 0 < quantity <= left:
        raise ToolError(f"There are {left} bags of {item}")
    if not confirmed.confirm:
        return "Nothing was ordered."
    stock_left[item] -= quantity
    orders.append({"item": item, "quantity": quantity})
    return f"Ordered {quantity} bags of {item}; {stock_left[item]} are left."


@mcp.tool()
def describe(item: str, written: Annotated[CreateMessageResult, Resolve(praise)]) -> str:
    """A text about a coffee, written by the client's model."""
    if item not in stock_left:
        raise ToolError(f"There is no {item}: see the stock")
    return written.content.text if isinstance(written.content, TextContent) else "No text was written."


@mcp.tool()
async def roast(batches: int, ctx: Context) -> str:
    """Roast some batches, one after the other, and tell of each."""
    for done in range(1, batches + 1):
        await asyncio.sleep(PACE_S)
        await ctx.report_progress(done, batches, f"Batch {done} is roasted")
    return f"{batches} batches are roasted."


@mcp.resource("shop://orders", mime_type="application/json")
def placed() -> list[dict[str, Any]]:
    """The orders of this session."""
    return orders


@mcp.prompt()
def restock(item: str) -> str:
    """Asks a model to order what runs out."""
    return f"Look at the stock. If fewer than {MANY} bags of {item} are left, order {MANY} more."


if __name__ == "__main__":
    # 0.0.0.0, or requests that name another host are refused.
    mcp.run("streamable-http", host="0.0.0.0", port=8000)
