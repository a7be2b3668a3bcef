from freehold.gateway.connection import ClientConnection
from freehold.gateway.passages import Passages

class FastPassages:
    """Takes requests as `Passages` does, and hands to it what it does not take itself."""

    def __init__(self, passages: Passages) -> None: ...
    def take(self, connection: ClientConnection, data: bytes) -> bool: ...
