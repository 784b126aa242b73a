"""Draining of nodes in our own service, for the command line."""

from typing import Any

from grpclib import GRPCError

from pilotlight.control.cordons import Cordons
from pilotlight.core import errors
from pilotlight.rpc.framework import status_of
from pilotlight.wire import platform_pb2


class CordonControl:
    """The methods of the Control service that are about nodes in and out of service."""

    _cordons: Cordons

    async def NodeDrain(self, stream: Any) -> None:
        request = await stream.recv_message()
        try:
            if request.undrain:
                node, containers = await self._cordons.undrain(request.node), 0
            else:
                node, containers = await self._cordons.drain(request.node)
        except errors.PilotlightError as error:
            raise GRPCError(status_of(error), str(error)) from error
        reply = platform_pb2.NodeDrainReply(node_id=node.node_id, name=node.name, containers=containers)
        await stream.send_message(reply)
