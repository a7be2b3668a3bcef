"""A2A agents, used by the protocol's own Python client through Freehold: cards, streams, tasks that ask back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import a2a.types as types
import httpx
import pytest
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.helpers import get_stream_response_text, new_text_message
from a2a.utils.errors import TaskNotFoundError
from packages import bundle_of
from running_server import RunningServer, session_id
from signing import invocations_url, signer

MENU = Path(__file__).parents[2] / "examples" / "a2a_menu" / "main.py"
ID = session_id()
"""Clients repeat none by themselves."""
SESSION = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
LIMIT_S = 90

PLAIN = """
import uvicorn
from a2a.helpers import new_text_message
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, Role
from starlette.applications import Starlette

card = AgentCard(name="echo", description="Repeats.", version="1", capabilities=AgentCapabilities(streaming=False),
                 default_input_modes=["text"], default_output_modes=["text"])
card.supported_interfaces.append(
    AgentInterface(protocol_binding="JSONRPC", protocol_version="1.0", url="http://localhost:9000/"))

class Echo(AgentExecutor):
    async def execute(self, context, event_queue):
        await event_queue.enqueue_event(new_text_message(context.get_user_input(), role=Role.ROLE_AGENT))

    async def cancel(self, context, event_queue):
        raise NotImplementedError

handler = DefaultRequestHandler(agent_executor=Echo(), task_store=InMemoryTaskStore(), agent_card=card)
app = Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=9000)
"""
"""An agent as the protocol's SDK makes them: it has no /ping, and knows of no address but its own."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arns(running: RunningServer) -> dict[str, str]:
    files = dict(bundle_of("a2a-sdk[http-server]", "bedrock-agentcore"))
    artifact = running.artifact(files | {"menu.py": MENU.read_bytes(), "plain.py": PLAIN})
    made = {name: running.deployed_from(artifact, f"{name}.py", "A2A") for name in ("menu", "plain")}
    running.control.create_agent_runtime_endpoint(agentRuntimeId=made["plain"].rpartition("/")[2], name="prod")
    return made


@contextlib.asynccontextmanager
async def client_of(running: RunningServer, url: str) -> AsyncIterator[Client]:
    async with (
        asyncio.timeout(LIMIT_S),
        httpx.AsyncClient(auth=signer(running), headers={SESSION: ID}, timeout=LIMIT_S) as http,
    ):
        yield await ClientFactory(ClientConfig(httpx_client=http)).create_from_url(url)


def asked(text: str, task: types.Task | None = None) -> types.SendMessageRequest:
    message = new_text_message(text, role=types.Role.ROLE_USER)
    if task is not None:
        message.task_id, message.context_id = task.id, task.context_id
    return types.SendMessageRequest(message=message)


def test_a_dinner_is_planned_over_two_messages_and_streams_its_courses(running: RunningServer, arns: dict[str, str]):
    async def main() -> None:
        async with client_of(running, invocations_url(running, arns["menu"])) as client:
            first = [event async for event in client.send_message(asked("dinner, please"))]
            assert first[-1].status_update.status.state == types.TaskState.TASK_STATE_INPUT_REQUIRED
            assert get_stream_response_text(first[-1]) == "For how many guests?"
            task = await client.get_task(types.GetTaskRequest(id=first[0].task.id))
            events = [event async for event in client.send_message(asked("for 4, without fish", task))]
            parts = [get_stream_response_text(event) for event in events if event.HasField("artifact_update")]
            assert [part.partition(" for 4: ")[0] for part in parts] == ["starter", "main course", "dessert"]
            assert "fish" not in "".join(parts)
            assert events[-1].status_update.status.state == types.TaskState.TASK_STATE_COMPLETED
            assert (await client.get_task(types.GetTaskRequest(id=task.id))).artifacts[0].name == "menu"
            with pytest.raises(TaskNotFoundError):
                await client.get_task(types.GetTaskRequest(id="another"))

    asyncio.run(main())


def test_cards_have_the_address_at_which_their_agents_are_reached(running: RunningServer, arns: dict[str, str]):
    """By the SDK's glue from its environment; of an agent that knows no other than its own, by Freehold."""

    def addresses(name: str, **more: str) -> list[str]:
        answer = running.data.get_agent_card(agentRuntimeArn=arns[name], runtimeSessionId=ID, **more)
        return [each["url"] for each in answer["agentCard"]["supportedInterfaces"]]

    menu, plain = (f"{invocations_url(running, arns[name])}/" for name in ("menu", "plain"))
    assert addresses("menu") == [menu]
    assert addresses("plain") == [plain]
    assert addresses("plain", qualifier="prod") == [f"{plain}?qualifier=prod"]


def test_an_agent_that_knows_nothing_of_where_it_runs_is_found_by_its_card(
    running: RunningServer, arns: dict[str, str]
):
    async def main() -> None:
        async with client_of(running, f"{invocations_url(running, arns['plain'])}/") as client:
            (answer,) = [event async for event in client.send_message(asked("hello"))]
            assert get_stream_response_text(answer) == "hello"

    asyncio.run(main())
