"""The server process: its objects, in the order in which they need each other."""

import asyncio
import random
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from pilotlight.config import Settings, note
from pilotlight.control.apps import AppRecord, Apps, stopped
from pilotlight.control.audit import Audit
from pilotlight.control.autoscalers import Autoscalers
from pilotlight.control.backups import Backups
from pilotlight.control.blobs import Blobs
from pilotlight.control.calls import Calls
from pilotlight.control.cordons import Cordons
from pilotlight.control.crash_loops import forget_deaths
from pilotlight.control.dicts import Dicts
from pilotlight.control.edges import Edges
from pilotlight.control.environments import Environments
from pilotlight.control.expectations import Expectations
from pilotlight.control.functions import Functions
from pilotlight.control.garbage import Ages, Garbage
from pilotlight.control.gpu_tasks import GpuTasks
from pilotlight.control.idle_pools import IdlePools
from pilotlight.control.image_names import ImageNames
from pilotlight.control.images import Images
from pilotlight.control.live import LiveTask
from pilotlight.control.mounts import Mounts
from pilotlight.control.network_file_systems import NetworkFileSystems
from pilotlight.control.node_output import NodeOutput
from pilotlight.control.nodes import Nodes
from pilotlight.control.output_log import OutputLog
from pilotlight.control.overview import Overview
from pilotlight.control.owners import Owners
from pilotlight.control.permissions import Permissions
from pilotlight.control.pools import Pools
from pilotlight.control.proxy_tokens import ProxyTokens
from pilotlight.control.queues import Queues
from pilotlight.control.recovery import Recovery
from pilotlight.control.refusals import Refusals
from pilotlight.control.replies import Replies
from pilotlight.control.schedules import Schedules
from pilotlight.control.secrets import Secrets
from pilotlight.control.spare_tasks import SpareTasks
from pilotlight.control.statistics import Statistics
from pilotlight.control.tasks import APP_STOPPED, Tasks
from pilotlight.control.timelines import Timelines
from pilotlight.control.tokens import Tokens
from pilotlight.control.tunnels import Tunnels
from pilotlight.control.unplaced import UnplacedPools
from pilotlight.control.volume_files import VolumeFiles
from pilotlight.control.volumes import Volumes
from pilotlight.control.web import Web
from pilotlight.control.web_requests import WebRequests
from pilotlight.control.web_routes import WebRoutes
from pilotlight.control.webhook_deliveries import WebhookDeliveries
from pilotlight.control.webhook_sender import WebhookSender
from pilotlight.control.webhooks import Webhooks
from pilotlight.core.clocks import SteadyClock
from pilotlight.core.labels import addresses_of
from pilotlight.core.quotas import Quota
from pilotlight.core.reach import Edge
from pilotlight.handlers import handlers_of
from pilotlight.loops import runner
from pilotlight.loops.expire import ExpireLoop
from pilotlight.loops.garbage import GarbageLoop
from pilotlight.loops.scale import ScaleLoop
from pilotlight.loops.schedules import ScheduleLoop
from pilotlight.loops.webhooks import WebhookLoop
from pilotlight.objects import Objects
from pilotlight.objects.keys import KeyFile, load_or_create_key
from pilotlight.rpc.auditing import AuditObserver
from pilotlight.rpc.authentication import NodeAuthenticator
from pilotlight.rpc.control import ControlService
from pilotlight.rpc.edges import EdgeService
from pilotlight.rpc.framework import Service
from pilotlight.rpc.listeners import public_listener, start
from pilotlight.rpc.nodes import NodeService
from pilotlight.rpc.permissions import Guard
from pilotlight.store.database import Database
from pilotlight.store.opening import open_databases
from pilotlight.wire import platform_pb2
from pilotlight.wire.frames import Listener
from pilotlight.wire.listening import Server as GrpcServer
from pilotlight.wire.tls import certificate_of


class Server:
    """All use cases and the services over them."""

    def __init__(self, settings: Settings, database: Database, output_database: Database) -> None:
        self.settings = settings
        self.clock = SteadyClock()
        self.database = database
        self.output_database = output_database
        keys = settings.keys_dir
        self.signing_key = load_or_create_key(keys / "signing.key")
        self.node_token = load_or_create_key(keys / "node.token")
        self.objects = Objects(settings.objects_dir)
        has_tls = settings.tls_cert is not None
        self.addresses = addresses_of(settings.web_domain, settings.web_port, has_tls=has_tls, is_open=settings.web_is_open)
        self.edge = Edge(settings.web.rpartition(":")[0], settings.web_port, has_tls, self.addresses)
        self._listeners: list[GrpcServer] = []
        self._stream_listeners: list[Listener[platform_pb2.FromNode] | Listener[platform_pb2.FromEdge]] = []
        self._make_objects_with_names()
        self._make_programs()
        self._make_calls()
        self._make_containers()
        self._make_web()
        self._make_upkeep()
        self._connect()

    def _make_objects_with_names(self) -> None:
        """What programs keep things in, and who may use them."""
        settings, database = self.settings, self.database
        self.environments = Environments(
            database=database, workspace=settings.workspace, image_builder_version=settings.image_builder_version
        )
        self.tokens = Tokens(database=database)
        self.blobs = Blobs(objects=self.objects, signing_key=self.signing_key, base_url=self.edge.own_url)
        self.mounts = Mounts(database=database, objects=self.objects)
        operators = settings.secrets_key_file
        key_file = KeyFile(operators or settings.keys_dir / "secrets.key", is_operators=operators is not None)
        self.secrets = Secrets(database=database, environments=self.environments, key_file=key_file)
        self.dicts = Dicts(database=database, environments=self.environments, now=self.clock)
        self.queues = Queues(database=database, environments=self.environments, now=self.clock)
        self.volumes = Volumes(database=database, environments=self.environments, directory=settings.volumes_path)
        self.volume_files = VolumeFiles(
            volumes=self.volumes, objects=self.objects, signing_key=self.signing_key, base_url=self.edge.own_url
        )
        self.network_file_systems = NetworkFileSystems(
            database=database,
            environments=self.environments,
            volumes=self.volumes,
            files=self.volume_files,
            mounts=self.mounts,
        )

    def _make_programs(self) -> None:
        """What programs consist of, and where they can run."""
        settings, database = self.settings, self.database
        self.functions = Functions(database, self.addresses)
        self.apps = Apps(database=database, environments=self.environments, functions=self.functions, steady=self.clock)
        self.nodes = Nodes()
        self.output_log = OutputLog(self.output_database, age_by=self.clock.careful)
        self.images = Images(
            database=database,
            nodes=self.nodes,
            mounts=self.mounts,
            secrets=self.secrets,
            default_builder_version=settings.image_builder_version,
        )
        self.image_names = ImageNames(
            database=database, environments=self.environments, images=self.images, workspace=settings.workspace
        )
        self.pools = Pools(database, self.functions, self.nodes)
        self.autoscalers = Autoscalers(database=database, apps=self.apps, functions=self.functions, pools=self.pools)

    def _make_calls(self) -> None:
        """What programs are asked to do, and who is told of the ends."""
        settings, database = self.settings, self.database
        allow_private = settings.webhook_allow_private
        self.webhooks = Webhooks(
            database=database,
            environments=self.environments,
            apps=self.apps,
            key=load_or_create_key(settings.keys_dir / "webhooks.key"),
            allow_private=allow_private,
        )
        self.calls = Calls(database, self.pools, self.webhooks)
        self.webhook_sender = WebhookSender(allow_private=allow_private)
        self.webhook_deliveries = WebhookDeliveries(
            database=database,
            webhooks=self.webhooks,
            environments=self.environments,
            sender=self.webhook_sender,
            may_go_on=self.calls.may_go_on,
        )
        self.webhook_loop = WebhookLoop(self.webhook_deliveries, self.webhooks.due)

    def _make_containers(self) -> None:
        """What runs, where, and how it went."""
        settings, database = self.settings, self.database
        self.tasks = Tasks(
            database=database,
            pools=self.pools,
            calls=self.calls,
            nodes=self.nodes,
            apps=self.apps,
            images=self.images,
            mounts=self.mounts,
            secrets=self.secrets,
            output_log=self.output_log,
        )
        self.permissions = Permissions(
            found_database=self.output_database,
            tasks=self.tasks,
            environments=self.environments,
            owners=Owners(database=database, apps=self.apps, functions=self.functions, calls=self.calls),
            may_leave_environment=settings.container_reach == "workspace",
        )
        self.node_output = NodeOutput(tasks=self.tasks, nodes=self.nodes, output_log=self.output_log)
        self.expectations = Expectations(
            apps=self.apps,
            functions=self.functions,
            images=self.images,
            mounts=self.mounts,
            nodes=self.nodes,
            occupancy=self.tasks.occupancy,
        )
        self.cordons = Cordons(database=database, nodes=self.nodes, tasks=self.tasks, pools=self.pools)
        self.gpu_tasks = GpuTasks(
            tasks=self.tasks, nodes=self.nodes, pools=self.pools, autoscalers=self.autoscalers, output_log=self.output_log
        )
        self.statistics = Statistics(database=database, apps=self.apps, functions=self.functions, tasks=self.tasks)
        self.timelines = Timelines(
            database=database,
            output_database=self.output_database,
            functions=self.functions,
            result_ttl_s=settings.result_ttl_s,
        )
        self.unplaced = UnplacedPools(
            calls=self.calls,
            output_log=self.output_log,
            patience_s=0.0 if settings.reject_unplaceable else settings.unplaceable_timeout_s,
        )

    def _make_web(self) -> None:
        """What is served over HTTP."""
        settings, database = self.settings, self.database
        self.edges = Edges()
        self.proxy_tokens = ProxyTokens(database=database, environments=self.environments)
        self.web_routes = WebRoutes(
            database=database,
            apps=self.apps,
            functions=self.functions,
            environments=self.environments,
            edges=self.edges,
            addresses=self.addresses,
            workspace=settings.workspace,
        )
        self.web_requests = WebRequests(self.output_database)
        self.tunnels = Tunnels(database=database, edges=self.edges, place=settings.tunnels, find_task=self.tasks.get)
        self.web = Web(
            functions=self.functions,
            pools=self.pools,
            edges=self.edges,
            routes=self.web_routes,
            tokens=self.proxy_tokens,
            requests=self.web_requests,
            max_waiting=settings.web_max_waiting,
            tunnels=self.tunnels,
        )

    def _make_upkeep(self) -> None:
        """What happens by itself, and what is to be seen of all this."""
        settings, database = self.settings, self.database
        self.schedules = Schedules(database=database, apps=self.apps, calls=self.calls, output_log=self.output_log)
        self.recovery = Recovery(
            apps=self.apps, calls=self.calls, tasks=self.tasks, pools=self.pools, nodes=self.nodes, images=self.images
        )
        self.garbage = Garbage(
            database=database,
            objects=self.objects,
            mounts=self.mounts,
            images=self.images,
            nodes=self.nodes,
            ages=Ages(grace_s=settings.gc_grace_s, image_s=settings.image_ttl_s, result_s=settings.result_ttl_s),
            now=self.clock.careful,
        )
        self.audit = Audit(database=database, retention_s=settings.audit_ttl_s, now=self.clock.careful)
        databases = (settings.database_path, settings.log_database_path)
        self.backups = Backups(paths=databases, place=settings.snapshots_dir, garbage=self.garbage)
        self.refusals = Refusals()
        self.overview = Overview(
            apps=self.apps,
            calls=self.calls,
            pools=self.pools,
            tasks=self.tasks,
            nodes=self.nodes,
            images=self.images,
            schedules=self.schedules,
            garbage=self.garbage,
            webhooks=self.webhook_deliveries,
            unplaced=self.unplaced,
            refusals=self.refusals,
        )

    def _connect(self) -> None:
        """What one use case has to tell others that it can't know."""
        self.apps.is_busy = lambda app_id: self.calls.is_busy(app_id) or self.web_routes.serves(app_id)
        self.tasks.on_end = self._task_ended
        self.tasks.on_serving = self.web.serving_changed
        self.tasks.ends.on_startup_failure = self.unplaced.on_failure = self.web.startup_failed
        self.unplaced.is_settled = lambda: self.recovery.is_settled
        self.environments.before_delete.append(self.proxy_tokens.environment_deleted)
        self.apps.after_live.append(self.web.publish)
        self.environments.on_rename.append(self.apps.environment_renamed)
        self.environments.before_delete += [self.apps.stop_all_in, self.webhooks.remove_all_in, self.image_names.remove_all_in]
        self.apps.after_live.append(self.schedules.follow)
        self.apps.after_live.append(self.autoscalers.keep_warm)
        self.apps.after_live.append(self.expectations.follow)
        self.apps.on_stop = self._app_stopped
        self.apps.on_change = self._app_changed
        self.pools.is_live = self.apps.is_live
        self.volumes.mounted_in = lambda task_id: task.volume_ids if (task := self.tasks.get(task_id)) else ()

    @classmethod
    async def open(cls, settings: Settings) -> "Server":
        """Open the state, bring it to the newest schema, and rebuild what was going on."""
        main, output = open_databases(
            settings.database_path, settings.log_database_path, settings.synchronous, settings.run_dir, note
        )
        server = cls(settings, Database(main), Database(output))
        await server.backups.sweep()
        await server.environments.ensure_default()
        await server.secrets.restore()
        await server.tokens.load()
        await server.tokens.ensure_first(settings.first_token_path)
        await server.output_log.restore()
        await server.node_output.restore()
        await server.apps.restore()
        await server.proxy_tokens.load()
        await server.web.restore()
        await server.tunnels.restore()
        await server.webhooks.restore()
        await server.cordons.restore()
        await server.images.restore()
        await server.recovery.restore()
        await server.permissions.restore()
        await server.autoscalers.restore()
        await server.schedules.restore()
        return server

    async def listen(self, api: socket.socket, inner: socket.socket, nodes: socket.socket, edges: socket.socket) -> None:
        """Serve clients on `api`, containers and our own processes on `inner`, the streams of nodes and of edges on theirs."""
        handlers = handlers_of(self)
        public = public_listener(handlers, self.tokens, self.edge, self.audit, self.settings.rpc_rate_limit)
        from_node = NodeAuthenticator(self.node_token, lambda task_id: self.tasks.get(task_id) is not None)
        for_tasks = Service(handlers, from_node, Guard(self.permissions, self.settings.workspace), AuditObserver(self.audit))
        service = NodeService(
            recovery=self.recovery,
            tasks=self.tasks,
            images=self.images,
            node_output=self.node_output,
            garbage=self.garbage,
            gpu_tasks=self.gpu_tasks,
            refusals=self.refusals,
            node_token=self.node_token,
            max_containers=self.settings.max_containers_per_node,
        )
        use_cases = (
            self.overview,
            self.tokens,
            self.secrets,
            self.garbage,
            self.webhooks,
            self.web,
            self.proxy_tokens,
            self.volumes,
            self.cordons,
            self.audit,
            self.backups,
        )
        control = ControlService(*use_cases)
        listeners = [public, GrpcServer([for_tasks, control])]
        await start(listeners[0], api, certificate_of(self.settings))
        await start(listeners[1], inner)
        self._listeners = listeners
        edge_service = EdgeService(web=self.web, tunnels=self.tunnels, recovery=self.recovery, node_token=self.node_token)
        node_listener = Listener(platform_pb2.FromNode, service.serve)
        edge_listener = Listener(platform_pb2.FromEdge, edge_service.serve)
        await node_listener.start(nodes)
        await edge_listener.start(edges)
        self._stream_listeners = [node_listener, edge_listener]

    def loops(self, chance: random.Random) -> list[Coroutine[Any, Any, None]]:
        """The reconcilers, each to be run as a task."""
        clock = asyncio.get_running_loop().time
        scale = self.scale_loop(clock)
        expire = self.expire_loop()
        schedules = ScheduleLoop(self.schedules)
        return [runner.run(loop, chance) for loop in (scale, expire, schedules, self.webhook_loop, GarbageLoop(self.garbage))]

    def scale_loop(self, clock: Callable[[], float]) -> ScaleLoop:
        """What starts and ends containers, on this clock."""
        return ScaleLoop(
            pools=self.pools,
            tasks=self.tasks,
            autoscalers=self.autoscalers,
            unplaced=self.unplaced,
            gpu_tasks=self.gpu_tasks,
            spare=SpareTasks(tasks=self.tasks, autoscalers=self.autoscalers, gpu_tasks=self.gpu_tasks),
            quota=Quota(self.settings.max_containers, self.settings.max_gpus),
            clock=clock,
        )

    def expire_loop(self) -> ExpireLoop:
        """Ends and deletes what is past its time."""
        idle_pools = IdlePools(pools=self.pools, calls=self.calls, functions=self.functions, autoscalers=self.autoscalers)
        return ExpireLoop(
            apps=self.apps,
            output_log=self.output_log,
            database=self.database,
            result_ttl_s=self.settings.result_ttl_s,
            collectors={
                "audit": self.audit.collect,
                "replies": Replies(self.database, self.clock.careful).collect,
                "dicts": self.dicts.collect,
                "queues": self.queues.collect,
                "secrets": self.secrets.collect,
                "network_file_systems": self.network_file_systems.collect,
                "volumes": self.volumes.collect,
                "idle_maps": self.calls.forget_idle_maps,
                "stopped_routes": self.web_routes.collect,
                "parameter_sets": self.web.collect,
                "idle_pools": idle_pools.collect,
                "webhook_deliveries": self.webhooks.collect,
            },
            now=self.clock.careful,
        )

    async def close(self) -> None:
        """Stop serving, then finish what was being written."""
        for listener in self._listeners:
            listener.close()
            listener.abort()  # clients keep their connections for as long as they live
        for listener in self._listeners:
            await listener.wait_closed()
        for stream_listener in self._stream_listeners:
            await stream_listener.close()
        await self.expectations.close()
        await self.webhook_loop.close()
        await self.webhook_sender.close()
        self.volumes.close()
        await self.tokens.record_use()
        await self.output_log.close()
        await self.output_database.close()
        await self.database.close()

    def _task_ended(self, task: LiveTask) -> None:
        self.tunnels.task_ended(task.task_id)
        self.permissions.task_ended(task.task_id)

    async def _app_stopped(self, app: AppRecord, reason: str, grace_s: float) -> None:
        pools = self.pools.of_app(app.app_id)
        for pool in pools:  # before anything waits for the disk
            pool.closed = True
            for task in list(pool.tasks.values()):
                self.tasks.stop(task, APP_STOPPED, grace_s=grace_s)
        ends = [self.calls.end_pool(pool, stopped(app.title, reason)) for pool in pools]
        await asyncio.gather(self.schedules.stop(app.app_id), self.web.stop(app), *ends)
        self.calls.forget_finished_maps(pools)
        for pool in pools:
            self.pools.drop(pool)
        self.output_log.wake(app.app_id)

    def _app_changed(self, app: AppRecord, changed: Sequence[str]) -> None:
        """New inputs go to the new version; containers of the old one finish what they have."""
        for pool in self.pools.of_app(app.app_id):
            if pool.function_id in changed:
                forget_deaths(pool)
                self.tasks.replace(pool, gently=not app.is_run)
            self.pools.touch(pool)
