import asyncio
from collections.abc import Callable

from freehold.gateway.exchange import Exchange
from freehold.gateway.framing import Chunked
from freehold.gateway.relay import AgentRelay
from freehold.gateway.websocket.frames import FrameFollower

class Chunks:
    """What passes on whole chunks of a response's body as they come, and hands all else to `long_way`."""

    def __init__(
        self,
        relay: AgentRelay,
        exchange: Exchange,
        body: Chunked,
        long_way: Callable[[bytes], None],
        transport: asyncio.Transport,
    ) -> None: ...
    def data_received(self, data: bytes) -> None: ...

class Messages:
    """What passes on whole messages as they come, and hands all else to `long_way`, which says whether what comes next
    may pass."""

    passed: int
    """Bytes that have."""
    rides: bool
    """Whether what comes is read here; see `ride`."""
    def __init__(
        self,
        follower: FrameFollower,
        destination: asyncio.Transport,
        clock: Callable[[], float],
        long_way: Callable[[bytes], bool],
    ) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def ride(self, transport: asyncio.Transport) -> None:
        """Read what comes to `transport` in its place, until `alight`. That reads itself when something ends there."""

    def alight(self) -> None:
        """Read nothing more. Nor does the transport, before it is told to."""
