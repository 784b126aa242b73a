"""What the edge adds to uvicorn's HTTP connections: a request is told when its client has gone, without a task that waits."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CONNECTION = "pilotlight.connection"  # the key in a request's scope


class HttpConnection(HttpToolsProtocol):
    """A connection of a client. `gone` is done once it has been lost."""

    gone: asyncio.Future[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.gone = self.loop.create_future()
        super().connection_made(cast(asyncio.Transport, transport))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.gone.done():
            self.gone.set_result(None)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(dict[str, Any], self.scope)[CONNECTION] = self

    async def break_off(self) -> None:
        """End the connection in the middle of a response, so that the client sees that it is not whole."""
        self.transport.abort()
        await asyncio.wait((self.gone,))
