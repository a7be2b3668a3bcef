"""The MCP example, used by the protocol's own Python client through Freehold: with a handshake, and without one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp.types as types
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from packages import bundle_of
from running_server import RunningServer, wait_until
from signing import invocations_url, signer

SHOP = Path(__file__).parents[2] / "examples" / "mcp_shop" / "main.py"
LIMIT_S = 90

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(running: RunningServer) -> str:
    """The ARN."""
    return running.deployed("shop", dict(bundle_of("mcp", "uvicorn")) | {"main.py": SHOP.read_bytes()}, "MCP")


class Customer:
    """A client, the user before it and the model behind it."""

    def __init__(self, server: RunningServer, arn: str, mode: str, **headers: str) -> None:
        self.server, self.arn, self.mode, self.headers = server, arn, mode, headers
        self.asked: list[str] = []
        self.sessions: set[str] = set()

    async def answer(self, _context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        self.asked.append(params.message)
        return types.ElicitResult(action="accept", content={"confirm": "12" not in params.message})

    async def write(self, _context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        (message,) = params.messages
        assert isinstance(message.content, types.TextContent)
        text = types.TextContent(type="text", text=f"<{message.content.text}>")
        return types.CreateMessageResult(role="assistant", content=text, model="none")

    async def note(self, response: httpx2.Response) -> None:
        if "mcp-session-id" in response.headers:
            self.sessions.add(response.headers["mcp-session-id"])

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        url = invocations_url(self.server, self.arn)
        async with httpx2.AsyncClient(
            auth=signer(self.server), headers=self.headers, timeout=LIMIT_S, event_hooks={"response": [self.note]}
        ) as http:
            transport = streamable_http_client(url, http_client=http)
            async with Client(
                transport, mode=self.mode, sampling_callback=self.write, elicitation_callback=self.answer
            ) as client:
                yield client

    def visits(self, visit: Callable[[Client], Awaitable[None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(LIMIT_S), self.connected() as client:
                await visit(client)

        asyncio.run(main())


def text(result: types.CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


@pytest.mark.parametrize(("mode", "version"), [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
def test_tools_resources_prompts_progress_sampling_and_elicitation(
    running: RunningServer, shop: str, mode: str, version: str
):
    customer = Customer(running, shop, mode)

    async def visit(client: Client) -> None:
        assert client.session.protocol_version == version
        assert [tool.name for tool in (await client.list_tools()).tools] == ["stock", "order", "describe", "roast"]
        assert (await client.call_tool("stock", {})).structured_content == {"espresso": 40, "filter": 25, "decaf": 3}
        progress: list[tuple[float, str | None]] = []

        async def note(done: float, _total: float | None, message: str | None) -> None:
            progress.append((done, message))

        # All at once, in one session: each has its own requests to the client in between.
        order, less, described, roasted, unknown = await asyncio.gather(
            client.call_tool("order", {"item": "espresso", "quantity": 11}),
            client.call_tool("order", {"item": "filter", "quantity": 12}),
            client.call_tool("describe", {"item": "decaf"}),
            client.call_tool("roast", {"batches": 3}, progress_callback=note),
            client.call_tool("order", {"item": "tea", "quantity": 1}),
        )
        assert text(order) == "Ordered 11 bags of espresso; 29 are left."
        assert text(less) == "Nothing was ordered."
        assert text(described) == "<Praise our decaf in one sentence.>"
        assert text(roasted) == "3 batches are roasted."
        assert progress == [(number, f"Batch {number} is roasted") for number in (1, 2, 3)]
        assert unknown.is_error
        assert "There is no tea" in text(unknown)
        (orders,) = (await client.read_resource("shop://orders")).contents
        assert isinstance(orders, types.TextResourceContents)
        assert json.loads(orders.text) == [{"item": "espresso", "quantity": 11}]
        prompt = await client.get_prompt("restock", {"item": "decaf"})
        assert "bags of decaf" in str(prompt.messages)
        with pytest.raises(MCPError):
            await client.read_resource("shop://nothing")

    customer.visits(visit)
    assert sorted(customer.asked) == ["Really order 11 bags of espresso?", "Really order 12 bags of filter?"]
    assert len(customer.sessions) == 1


def test_clients_have_a_session_each_which_outlives_gateway_workers_and_ends_with_its_client(
    running: RunningServer, shop: str
):
    async def main() -> None:
        one, two = Customer(running, shop, "legacy"), Customer(running, shop, "legacy")
        async with asyncio.timeout(LIMIT_S), one.connected() as first, two.connected() as second:
            await first.call_tool("order", {"item": "espresso", "quantity": 5})
            assert (await second.call_tool("stock", {})).structured_content == {
                "espresso": 40,
                "filter": 25,
                "decaf": 3,
            }
            (session,) = one.sessions
            assert one.sessions.isdisjoint(two.sessions)
            for worker in ("gateway-0", "gateway-1"):
                await asyncio.to_thread(running.kill, worker)
            assert (await first.call_tool("stock", {})).structured_content == {"espresso": 35, "filter": 25, "decaf": 3}
            # Its id is the session's: what stops sessions stops it, and the client is told so.
            running.data.stop_runtime_session(agentRuntimeArn=shop, runtimeSessionId=session)
            with pytest.raises(MCPError, match="has ended"):
                await first.call_tool("stock", {})
            assert not (await second.call_tool("stock", {})).is_error

    before = len(running.sandboxes())
    asyncio.run(main())
    wait_until(lambda: len(running.sandboxes()) == before, "the clients' sessions ended with them")


def test_boto3_speaks_with_it_too(running: RunningServer, shop: str):
    """As tools do that know the API and not the protocol: one session, by the id that every answer has."""
    call: dict[str, Any] = {
        "agentRuntimeArn": shop,
        "contentType": "application/json",
        "accept": "application/json, text/event-stream",
    }

    def send(
        method: str, request_id: int, params: dict[str, Any], **more: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        answer = running.data.invoke_agent_runtime(payload=json.dumps(message).encode(), **call, **more)
        assert answer["mcpSessionId"] == answer["runtimeSessionId"]
        (data,) = [line[6:] for line in answer["response"].read().splitlines() if line.startswith(b"data: {")]
        return answer, json.loads(data)

    client = {"name": "boto3", "version": "1"}
    opened, told = send("initialize", 1, {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client})
    assert told["result"]["serverInfo"]["name"] == "coffee shop"
    session = {"mcpSessionId": opened["mcpSessionId"], "mcpProtocolVersion": "2025-11-25"}
    notification = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    accepted = running.data.invoke_agent_runtime(payload=notification, **call, **session)
    assert (accepted["statusCode"], accepted["response"].read()) == (202, b"")
    _, told = send("tools/call", 2, {"name": "stock", "arguments": {}}, **session)
    assert told["result"]["structuredContent"] == {"espresso": 40, "filter": 25, "decaf": 3}
    running.data.stop_runtime_session(agentRuntimeArn=shop, runtimeSessionId=opened["runtimeSessionId"])
