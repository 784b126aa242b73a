"""The stream of an edge: what requests there are goes to the use cases, what they decide goes back to it."""

import structlog

from pilotlight.control.edges import EdgeSession
from pilotlight.control.recovery import Recovery
from pilotlight.control.tunnels import Tunnels
from pilotlight.control.web import Web
from pilotlight.rpc.streams import converse, is_ours
from pilotlight.wire import platform_pb2
from pilotlight.wire.frames import Frames

log = structlog.get_logger()

EdgeFrames = Frames[platform_pb2.FromEdge]


class EdgeService:
    """Serves the streams of edges."""

    def __init__(self, *, web: Web, tunnels: Tunnels, recovery: Recovery, node_token: bytes) -> None:
        self._web = web
        self._tunnels = tunnels
        self._recovery = recovery
        self._node_token = node_token

    async def serve(self, frames: EdgeFrames) -> None:
        """Serve one edge for as long as its stream lasts."""
        first = await frames.receive()
        if first is None:
            return
        hello = first.events[0].hello if first.events else platform_pb2.EdgeHello()

        async def refuse(refused: platform_pb2.Refused) -> None:
            await frames.send(platform_pb2.ToEdge(commands=[platform_pb2.EdgeCommand(refused=refused)]))

        if not await is_ours(hello.token, self._node_token, refuse):
            return
        # Until nodes have said which containers they kept, an edge goes by what it knew before.
        await self._recovery.complete.wait()
        session = EdgeSession()
        await self._web.join(session, hello.loads)
        try:
            await converse(session, frames, first.events[1:], lambda event: self._handle(session, event))
        finally:
            self._web.leave(session)

    def _handle(self, session: EdgeSession, event: platform_pb2.EdgeEvent) -> None:
        kind = event.WhichOneof("event")
        match kind:
            case "load":
                self._web.load(session, event.load)
            case "requests":
                self._web.ended(event.requests.requests)
            case "tunnel_opened":
                self._tunnels.answered(event.tunnel_opened)
            case _:
                log.debug("edge_event_ignored", kind=kind)
