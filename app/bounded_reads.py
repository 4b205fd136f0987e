"""Read a connection in small pieces, so that limits on what is read are exact to one of them."""

from asyncio import BufferedProtocol, Protocol
from typing import Final

READ_BYTES: Final = 60_000  # uvloop reads 256,000 at once, and a body could exceed its limit by as much


class BoundedReads(BufferedProtocol):
    """Hands another protocol what its connection reads, in pieces of one buffer's size.

    All connections of a loop share the buffer: a piece is copied before the next one is read.
    """

    def __init__(self, protocol: Protocol, buffer: memoryview) -> None:
        self._protocol, self._buffer = protocol, buffer
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002, asyncio's signature
        """Where the next piece goes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass a piece on."""
        self._protocol.data_received(bytes(self._buffer[:nbytes]))
