import asyncio

from freehold.gateway.connection import ClientConnection
from freehold.gateway.passages import Passages
from freehold.gateway.reading import Source
from freehold.gateway.upstream import AgentSource, Receive, Upstream

class Client(Source):
    """What stands between a client's connection and its transport: takes passages, and hands `receive` all else."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

class Agent(AgentSource):
    """What stands between an agent's connection and its transport: takes the responses of passages, and hands
    `data_received` all else."""

    def __init__(self, upstream: Upstream, transport: asyncio.Transport) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def receive_with(self, receive: Receive | None) -> None: ...

class FastPassages:
    """Takes requests as `Passages` does, and hands to it what it does not take itself."""

    def __init__(self, passages: Passages) -> None: ...
    def receiver(self, connection: ClientConnection, transport: asyncio.Transport) -> Client: ...
