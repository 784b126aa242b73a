"""The handlers of all RPCs, wired to the use cases of a server."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pilotlight.control.call_graph import CallGraphs
from pilotlight.control.call_lists import CallLists
from pilotlight.rpc.apps import AppHandlers
from pilotlight.rpc.blobs import BlobHandlers
from pilotlight.rpc.calls import CallHandlers
from pilotlight.rpc.dicts import DictHandlers
from pilotlight.rpc.environments import EnvironmentHandlers
from pilotlight.rpc.functions import FunctionHandlers
from pilotlight.rpc.image_names import ImageNameHandlers
from pilotlight.rpc.images import ImageHandlers
from pilotlight.rpc.mounts import MountHandlers
from pilotlight.rpc.network_file_systems import NetworkFileSystemHandlers
from pilotlight.rpc.proxy_tokens import ProxyTokenHandlers
from pilotlight.rpc.queues import QueueHandlers
from pilotlight.rpc.secrets import SecretHandlers
from pilotlight.rpc.servers import ServerHandlers
from pilotlight.rpc.statistics import StatisticsHandlers
from pilotlight.rpc.tasks import TaskHandlers
from pilotlight.rpc.timelines import TimelineHandlers
from pilotlight.rpc.tunnels import TunnelHandlers
from pilotlight.rpc.volumes import VolumeHandlers
from pilotlight.rpc.workspace import WorkspaceHandlers

if TYPE_CHECKING:
    from pilotlight.server import Server


def handlers_of(server: "Server") -> Sequence[object]:
    """One object per noun; each method that is named like an RPC serves it."""
    apps = AppHandlers(server.apps, server.environments, server.tasks, server.tokens, server.output_log, server.edge.own_url)
    return [
        WorkspaceHandlers(
            tokens=server.tokens,
            environments=server.environments,
            workspace=server.settings.workspace,
            signing_key=server.signing_key,
        ),
        EnvironmentHandlers(server.environments),
        apps,
        StatisticsHandlers(
            server.statistics, apps, CallLists(database=server.database, functions=server.functions, pools=server.pools)
        ),
        FunctionHandlers(server.apps, server.functions, server.pools, server.autoscalers, server.tokens, server.web_routes),
        CallHandlers(server.calls, CallGraphs(server.database, server.functions), server.signing_key),
        ImageHandlers(server.images),
        ImageNameHandlers(server.image_names, server.tokens),
        MountHandlers(server.mounts, server.environments),
        ServerHandlers(server.web_requests, server.statistics),
        TimelineHandlers(server.timelines),
        ProxyTokenHandlers(server.proxy_tokens, server.tokens, server.signing_key),
        BlobHandlers(server.blobs),
        SecretHandlers(server.secrets),
        DictHandlers(server.dicts),
        QueueHandlers(server.queues),
        VolumeHandlers(server.volumes, server.volume_files),
        NetworkFileSystemHandlers(server.network_file_systems),
        TunnelHandlers(server.tunnels),
        TaskHandlers(server.tasks, server.apps, server.environments),
    ]
