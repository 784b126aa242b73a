"""RPCs about tunnels: a container opens and closes ports of its own."""

from modal_proto import api_pb2

from pilotlight.control.tunnels import Tunnels
from pilotlight.core import errors
from pilotlight.rpc.framework import Caller


class TunnelHandlers:
    """modal.forward."""

    def __init__(self, tunnels: Tunnels) -> None:
        self._tunnels = tunnels

    async def TunnelStart(self, caller: Caller, request: api_pb2.TunnelStartRequest) -> api_pb2.TunnelStartResponse:
        h2 = request.tunnel_type == api_pb2.TUNNEL_TYPE_H2
        tunnel = await self._tunnels.open(
            _container(caller), request.port, raw=request.unencrypted, h2=h2, is_repeated=caller.is_repeated
        )
        place = self._tunnels.place
        return api_pb2.TunnelStartResponse(
            host=place.host(tunnel.label),
            port=place.port,
            unencrypted_host=place.raw_host if tunnel.raw_port else None,
            unencrypted_port=tunnel.raw_port or None,
        )

    async def TunnelStop(self, caller: Caller, request: api_pb2.TunnelStopRequest) -> api_pb2.TunnelStopResponse:
        return api_pb2.TunnelStopResponse(exists=await self._tunnels.close(_container(caller), request.port))


def _container(caller: Caller) -> str:
    if caller.task_id is None:
        raise errors.InvalidInput("Ports can only be forwarded from within a container (modal.forward).")
    return caller.task_id
