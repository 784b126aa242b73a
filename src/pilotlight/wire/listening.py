"""gRPC servers by grpclib, with the limits that the official clients need.

HTTP/2's usual 100 streams a connection are too few for a client that runs hundreds of calls over one connection.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from grpclib.config import Configuration
from grpclib.const import Handler
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.server import Server as GrpclibServer
from h2.settings import SettingCodes

from pilotlight.wire.bulk import FRAME_BYTES, BulkStream, CarefulStream, CountedStream, Underway
from pilotlight.wire.corked import Corked
from pilotlight.wire.patience import Patience, Watch
from pilotlight.wire.status import StatusDetails
from pilotlight.wire.stream_count import StreamCount

if TYPE_CHECKING:
    from grpclib._typing import IServable

STREAMS_PER_CONNECTION = 10_000
STREAM_WINDOW_BYTES = 16 * 1024 * 1024
CONNECTION_WINDOW_BYTES = 64 * 1024 * 1024

# In a request's metadata, put there by us:
AUTHORITY = "x-pilotlight-authority"  # the host and port that the client asked, which grpclib leaves out
PEER = "x-pilotlight-peer"  # the address of the other end; empty on a unix socket
OURS = (AUTHORITY, PEER)

CONFIGURATION = Configuration(
    http2_connection_window_size=CONNECTION_WINDOW_BYTES,
    http2_stream_window_size=STREAM_WINDOW_BYTES,
)


def watch_of(stream: Any) -> Watch | None:
    """Who watches the connection of a request, on a listener with patience."""
    return getattr(stream._stream.connection, "watch", None)


class _Found(dict[str, Handler]):
    """Handlers by path, each made when it is first asked for. What is not found is not remembered: callers may ask for anything."""

    def __init__(self, find: Callable[[str], Handler | None]) -> None:
        super().__init__()
        self._find = find

    def get(self, key: str, default: Any = None, /) -> Any:
        """The handler of a path."""
        if (known := super().get(key)) is not None:
            return known
        if (found := self._find(key)) is None:
            return default
        self[key] = found
        return found


class Server(GrpclibServer):
    """A grpclib server that allows many streams on each connection.

    `find_handler` is asked once for each method that somebody calls, by its path; None: there is no such method. Connections above
    `most_connections` (0: any number) are closed as they come. `patience`: clients are strangers, who may do only so much.
    `most_underway_bytes` (0: any number): of messages that come in at a time, over all connections.
    """

    def __init__(
        self,
        handlers: "Collection[IServable]",
        *,
        codec: CodecBase | None = None,
        status_details_codec: StatusDetailsCodecBase | None = None,
        find_handler: Callable[[str], Handler | None] | None = None,
        most_connections: int = 0,
        patience: Patience | None = None,
        most_underway_bytes: int = 0,
    ) -> None:
        # Left to itself, grpclib drops details unless a package of Google's is there.
        details_codec = status_details_codec or StatusDetails()
        super().__init__(handlers, codec=codec, status_details_codec=details_codec, config=CONFIGURATION)
        if find_handler is not None:
            self._mapping = _Found(find_handler)
        self._most_connections = most_connections
        self._patience = patience
        self._underway = Underway(most_underway_bytes) if most_underway_bytes else None
        self._transports: set[Any] = set()

    def abort(self) -> None:
        """Break all connections, as the end of the process would. Listening is ended by `close`."""
        for transport in tuple(self._transports):
            transport.abort()

    def _protocol_factory(self) -> Any:
        protocol = super()._protocol_factory()
        connection_made, connection_lost = protocol.connection_made, protocol.connection_lost

        accept = protocol.handler.accept

        def accept_with_authority(stream: Any, headers: Any, release_stream: Any) -> None:
            authority = next((value for name, value in headers if name == ":authority"), "")
            kept = [header for header in headers if header[0] not in OURS]
            if watch is not None:
                watch.requested()
            accept(stream, [*kept, (AUTHORITY, authority), (PEER, peer)], release_stream)

        protocol.handler.accept = accept_with_authority
        made: list[Any] = []
        peer = ""
        watch: Watch | None = None
        feed = protocol.data_received

        def data_received(data: bytes) -> None:
            (feed if watch is None else watch.data_received)(data)

        def ping(data: bytes) -> None:
            protocol.connection._connection.ping(data)  # pyright: ignore[reportPrivateUsage]
            protocol.connection.flush()

        def with_many_streams(bare: Any) -> None:
            nonlocal peer, watch
            if self._most_connections and len(self._transports) >= self._most_connections:
                bare.abort()
                return
            name = bare.get_extra_info("peername")
            peer = str(name[0]) if isinstance(name, tuple) else ""
            transport = Corked(bare)
            made.append(transport)
            connection_made(transport)
            self._transports.add(transport)
            h2_connection = protocol.connection._connection  # pyright: ignore[reportPrivateUsage]
            ours = {SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_PER_CONNECTION, SettingCodes.MAX_FRAME_SIZE: FRAME_BYTES}
            h2_connection.update_settings(ours)
            h2_connection._open_streams = StreamCount(h2_connection, STREAMS_PER_CONNECTION)
            kind: Any = BulkStream if self._underway is None else partial(CountedStream, self._underway)
            if self._patience is not None:
                kind, is_choked = CarefulStream, lambda: not protocol.connection.write_ready.is_set()
                watch = protocol.connection.watch = Watch(self._patience, transport, feed, ping, is_choked)
            protocol.connection.create_stream = partial(kind, protocol.connection, h2_connection, transport)
            protocol.connection.flush()

        def forget(error: BaseException | None) -> None:
            self._transports.difference_update(made)
            if watch is not None:
                watch.close()
            if made:
                connection_lost(error)

        protocol.connection_made, protocol.connection_lost = with_many_streams, forget
        protocol.data_received = data_received
        return protocol
