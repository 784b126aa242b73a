"""Requests of HTTP that wait or run at the edges: they count like queued and held inputs, and edges are told who serves them.

An edge knows of a function those containers that are ready and will stay: one that is to end is taken away before it is asked to.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence

import structlog
from modal_proto import api_pb2

from pilotlight.control.apps import AppRecord
from pilotlight.control.edges import Edges, EdgeSession
from pilotlight.control.functions import Functions
from pilotlight.control.live import LiveTask, Pool
from pilotlight.control.pools import Pools
from pilotlight.control.proxy_tokens import ProxyTokens
from pilotlight.control.tunnels import Tunnels
from pilotlight.control.web_parameters import parameter_names, serialized_parameters
from pilotlight.control.web_requests import WebRequests
from pilotlight.control.web_routes import WebRoutes
from pilotlight.core import errors
from pilotlight.core.tasks import TaskState
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

EDGE_GRACE_S = 10.0  # so long the requests of an edge that went away are believed to go on
MAX_PARAMETER_SETS = 1_000  # of one class that are served at the same time
IDLE_SET_S = 3600.0  # a parameter set that nobody has asked for so long is forgotten

EdgeCommand = platform_pb2.EdgeCommand


class Web:
    """The demand of web functions, and who serves it. Lives on the event loop's thread."""

    def __init__(
        self,
        *,
        functions: Functions,
        pools: Pools,
        edges: Edges,
        routes: WebRoutes,
        tokens: ProxyTokens,
        requests: WebRequests,
        max_waiting: int,
        tunnels: Tunnels,
    ) -> None:
        self._functions = functions
        self._pools = pools
        self._edges = edges
        self._routes = routes
        self._tokens = tokens
        self._requests = requests
        self._max_waiting = max_waiting
        self._tunnels = tunnels
        self._gone: dict[EdgeSession, asyncio.TimerHandle] = {}  # their requests may go on
        self._stale: dict[Pool, None] = {}  # edges are to be told anew of them
        self._told: dict[str, platform_pb2.WebFunction] = {}  # by function id
        self._sets: dict[str, dict[str, float]] = {}  # class function id → bound function id → when it was asked for last
        tokens.on_change = lambda: edges.send(EdgeCommand(proxy_tokens=tokens.message()))

    # ---- what is served ----

    async def restore(self) -> None:
        """After a start: the routes, and the pools behind them."""
        for record in await self._routes.restore():
            await self._pools.of_function(record.function_id)

    async def publish(self, app: AppRecord) -> None:
        """An app consists of something else now."""
        before = self._routes.function_ids(app.app_id)
        records = await self._routes.publish(app)
        for record in records:
            await self._pools.of_function(record.function_id)
            if parameter_names(record.definition):
                self._drop(record.function_id)  # edges ask anew which parameters bind to what
        for pool in self._pools.of_app(app.app_id):
            if pool.is_web:
                self.serving_changed(pool)
        for function_id in before - {record.function_id for record in records}:
            self._fail(function_id, 404, "its app was deployed without this function")
            self._drop(function_id)

    async def stop(self, app: AppRecord) -> None:
        """An app has ended."""
        await self._routes.stop(app.app_id)
        for pool in self._pools.of_app(app.app_id):
            if pool.is_web:
                self._fail(pool.function_id, 404, f"app {app.title!r} has stopped")
                self._drop(pool.function_id)
                self._sets.pop(pool.function_id, None)

    def _drop(self, function_id: str) -> None:
        self._told.pop(function_id, None)
        self._edges.send(EdgeCommand(drop_function=platform_pb2.DropFunction(function_id=function_id)))

    def _fail(self, function_id: str, status: int, why: str) -> None:
        self._edges.send(_failing(function_id, status, why))

    def serving_changed(self, pool: Pool) -> None:
        """Some container of a pool serves now, or does not any more."""
        if not pool.is_web or pool.closed:
            return
        if not self._stale:
            asyncio.get_running_loop().call_soon(self._tell)
        self._stale[pool] = None

    def _tell(self) -> None:
        stale, self._stale = self._stale, {}
        for pool in stale:
            function = self._function(pool)
            if not pool.closed and self._told.get(pool.function_id) != function:
                self._told[pool.function_id] = function
                self._edges.send(EdgeCommand(set_function=function))

    def _function(self, pool: Pool) -> platform_pb2.WebFunction:
        slots = 1 if pool.single_use else pool.max_concurrency
        return platform_pb2.WebFunction(
            function_id=pool.function_id,
            tasks=[
                platform_pb2.WebTask(task_id=task.task_id, node_address=task.web_node, address=task.address, slots=slots)
                for task in pool.tasks.values()
                if task.state is TaskState.READY and not (pool.single_use and task.taken)
            ],
            max_waiting=self._max_waiting,
        )

    def startup_failed(self, pool: Pool, why: str) -> None:
        """Containers of a function can't start: who waits for one learns it, unless others serve."""
        if pool.is_web and not any(task.state is TaskState.READY for task in pool.tasks.values()):
            self._fail(pool.function_id, 500, f"could not start: {summary_of(why)}; its logs say more")

    # ---- parameters of classes ----

    async def bind(self, function_id: str, given: Mapping[str, str]) -> str:
        """The function that serves these parameters of a class. Raises InvalidInput, NotFound, OverLimit."""
        record = await self._functions.get(function_id)
        params = serialized_parameters(record.definition, given)
        known = self._sets.setdefault(function_id, {})
        request = api_pb2.FunctionBindParamsRequest(function_id=function_id, serialized_params=params)
        bound_id = self._functions.bound_id(record, request)
        if bound_id not in known and len(known) >= MAX_PARAMETER_SETS:
            raise errors.OverLimit(f"{record.tag} is served with {MAX_PARAMETER_SETS} sets of parameters, which is the limit.")
        is_new = bound_id not in known
        known[bound_id] = asyncio.get_running_loop().time()
        try:
            await self._functions.bind(request)
            pool = await self._pools.taking_work(bound_id)
        except BaseException:
            if is_new:
                known.pop(bound_id, None)  # what can't be served takes no one's place
            raise
        self.serving_changed(pool)
        return bound_id

    async def collect(self) -> int:
        """Forget parameter sets that nobody has used for long; returns how many."""
        before = asyncio.get_running_loop().time() - IDLE_SET_S
        gone: list[str] = []
        for known in self._sets.values():
            for bound_id in [bound_id for bound_id, at in known.items() if at < before]:
                pool = self._pools.find(bound_id)
                if pool is not None and (pool.tasks or pool.queue or pool.web_waiting or pool.used_at >= before):
                    known[bound_id] = asyncio.get_running_loop().time()
                    continue
                del known[bound_id]
                self._drop(bound_id)
                if pool is not None:
                    self._pools.drop(pool)
                gone.append(bound_id)
        await self._functions.remove_unused(gone)
        return len(gone)

    # ---- edges ----

    async def join(self, session: EdgeSession, loads: Sequence[platform_pb2.WebLoad]) -> None:
        """An edge is (back) here: it learns all that it needs, and its requests count instead of those of edges that went away."""
        for load in loads:
            if self._pools.find(load.function_id) is None:
                await self._find(load.function_id)
            session.loads[load.function_id] = load
        session.send(EdgeCommand(welcome=platform_pb2.EdgeWelcome()))
        for route in self._routes:
            session.send(EdgeCommand(set_route=route))
        for pool in self._pools:
            if pool.is_web and not pool.closed:
                self._told[pool.function_id] = function = self._function(pool)
                session.send(EdgeCommand(set_function=function))
        for load in loads:
            pool = self._pools.find(load.function_id)
            if load.waiting and (pool is None or pool.closed):
                session.send(_failing(load.function_id, 404, "its app has stopped"))
        session.send(EdgeCommand(proxy_tokens=self._tokens.message()))
        self._tunnels.tell(session)
        self._edges.add(session)
        changed = set(session.loads)
        for gone, timer in self._gone.items():
            timer.cancel()
            changed |= set(gone.loads)
        self._gone.clear()
        for function_id in changed:
            self._settle(function_id)

    async def _find(self, function_id: str) -> None:
        try:
            await self._pools.taking_work(function_id)
        except errors.PilotlightError as error:
            log.info("web_load_of_unknown_function", function_id=function_id, error=str(error))

    def leave(self, session: EdgeSession) -> None:
        """An edge's stream has ended. It may be back in a moment, with the same requests."""
        self._edges.remove(session)
        self._gone[session] = asyncio.get_running_loop().call_later(EDGE_GRACE_S, self._give_up, session)

    def _give_up(self, session: EdgeSession) -> None:
        self._gone.pop(session, None)
        for function_id in session.loads:
            self._settle(function_id)

    def load(self, session: EdgeSession, load: platform_pb2.WebLoad) -> None:
        """What requests of a function there are at an edge now."""
        if load.waiting or load.running:
            session.loads[load.function_id] = load
        else:
            session.loads.pop(load.function_id, None)
        self._settle(load.function_id)

    def ended(self, requests: Sequence[platform_pb2.WebRequest]) -> None:
        """Learn from requests that have ended how long they take; those of servers are kept for their list."""
        served: list[platform_pb2.WebRequest] = []
        for request in requests:
            pool = self._pools.find(request.function_id)
            if pool is not None and request.task_id:
                pool.served(max(0.0, request.seconds - request.waited_s))
            if pool is not None and pool.definition.is_server:
                served.append(request)
        self._requests.keep(served)

    def _settle(self, function_id: str) -> None:
        pool = self._pools.find(function_id)
        if pool is None:
            return
        loads = [load for session in (*self._edges, *self._gone) if (load := session.loads.get(function_id)) is not None]
        now = asyncio.get_running_loop().time()
        waiting = sum(load.waiting for load in loads)
        if waiting and not pool.web_waiting:
            pool.web_waiting_since = now
        changed = waiting != pool.web_waiting
        pool.web_waiting = waiting
        for task in list(pool.tasks.values()):
            running = sum(load.running.get(task.task_id, 0) for load in loads)
            if running != task.web_running:
                changed = True
                self._occupy(pool, task, running, now)
        if changed:
            self._pools.touch(pool)

    def _occupy(self, pool: Pool, task: LiveTask, running: int, now: float) -> None:
        if not running:
            task.idle_since = now
        task.web_running = running
        if pool.single_use and not task.taken:
            task.taken = 1
            self.serving_changed(pool)


def _failing(function_id: str, status: int, why: str) -> EdgeCommand:
    return EdgeCommand(fail_waiting=platform_pb2.FailWaiting(function_id=function_id, status=status, why=why))


def summary_of(exception: str) -> str:
    """The class of an exception out of its text, which may hold what strangers shall not read."""
    found = re.match(r"\s*(\w+(?:\.\w+)*)\s*(?:\(|:|$)", exception)
    return found[1] if found else "its container ended"
