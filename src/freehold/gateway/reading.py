"""What may read in the place of a transport: see `lane`, of the compiled form."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod


class Source(asyncio.BaseProtocol, ABC):
    """A transport's protocol, which may read what comes there itself."""

    @abstractmethod
    def pause_reading(self) -> None:
        """As the transport's."""

    @abstractmethod
    def resume_reading(self) -> None:
        """As the transport's, which reads from now on: to be called before it gets another protocol."""
