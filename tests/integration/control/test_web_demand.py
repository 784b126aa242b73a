"""Requests of HTTP at an edge: containers are started and ended for them as for inputs, and the edge learns who serves."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from heart import FakeNode, Heart, beat
from modal_proto import api_pb2
from sqlalchemy import Connection, text

from pilotlight.control import web
from pilotlight.control.edges import EdgeSession
from pilotlight.control.live import LiveTask
from pilotlight.core import errors
from pilotlight.core.tasks import TaskState
from pilotlight.loops.scale import ScaleLoop
from pilotlight.wire import platform_pb2

ASGI = {"type": api_pb2.WEBHOOK_TYPE_ASGI_APP}
Result = api_pb2.GenericResult


class FakeEdge:
    """An edge that says what a test tells it."""

    def __init__(self, heart: Heart) -> None:
        self._web = heart.server.web
        self.session = EdgeSession()

    async def connect(self, *loads: platform_pb2.WebLoad) -> None:
        await self._web.join(self.session, loads)

    def load(self, function_id: str, waiting: int = 0, **running: int) -> None:
        by_task = {task_id.replace("_", "-", 1): count for task_id, count in running.items()}
        self._web.load(self.session, platform_pb2.WebLoad(function_id=function_id, waiting=waiting, running=by_task))

    async def heard(self, kind: str) -> list[Any]:
        """What was sent of this kind since the last look; the rest stays."""
        for _ in range(3):  # what changes within one turn of the loop is told at its end
            await asyncio.sleep(0)
        mine = [command for command in self.session.outgoing if command.HasField(kind)]  # type: ignore[arg-type]
        self.session.outgoing = [command for command in self.session.outgoing if not command.HasField(kind)]  # type: ignore[arg-type]
        return [getattr(command, kind) for command in mine]

    async def serving(self) -> list[list[str]]:
        """The tasks of each WebFunction since the last look."""
        return [[task.task_id for task in function.tasks] for function in await self.heard("set_function")]


def scaler(heart: Heart) -> ScaleLoop:
    return heart.server.scale_loop(asyncio.get_running_loop().time)


async def scale(heart: Heart, loop: ScaleLoop, node: FakeNode) -> list[str]:
    """One pass; returns the containers that were started."""
    await loop.run_once()
    while loop._starting:
        await asyncio.wait(loop._starting)
    return [command.task_id for command in node.commands("start_task")]


def key(task: LiveTask) -> str:
    return task.task_id.replace("-", "_", 1)


async def begin(heart: Heart, **fields: Any) -> tuple[str, FakeNode, FakeEdge]:
    function_id = await heart.define(webhook_config=ASGI, **fields)
    node, edge = FakeNode(heart), FakeEdge(heart)
    await node.connect()
    await edge.connect()
    return function_id, node, edge


def test_an_edge_learns_all_when_it_connects(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id, node, _ = await begin(heart)
        task = await node.ready(function_id)
        late = FakeEdge(heart)
        await late.connect()
        assert [command.WhichOneof("command") for command in late.session.outgoing] == [
            "welcome",
            "set_route",
            "set_function",
            "proxy_tokens",
        ]
        [route], [function] = await late.heard("set_route"), await late.heard("set_function")
        assert (route.label, route.function_id, route.title) == ("main--f-f-dev", function_id, "f.f")
        assert [(known.task_id, known.slots, known.node_address) for known in function.tasks] == [
            (task.task_id, 1, "unix:/run/web.sock")
        ]

    beat(tmp_path, scenario)


def test_a_waiting_request_starts_a_container_and_an_idle_one_goes(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id, node, edge = await begin(heart, task_idle_timeout_secs=60)
        loop = scaler(heart)
        assert await scale(heart, loop, node) == []
        edge.load(function_id, waiting=1)
        [task_id] = await scale(heart, loop, node)
        assert await scale(heart, loop, node) == []
        await edge.heard("set_function")
        heart.server.tasks.ready(task_id, "10.128.0.7")
        assert await edge.serving() == [[task_id]]
        task = heart.server.tasks.get(task_id)
        assert task is not None
        edge.load(function_id, **{key(task): 1})
        task.idle_since = 0.0  # long ago: yet it works
        await scale(heart, loop, node)
        assert task.state is TaskState.READY
        edge.load(function_id)
        task.idle_since -= 61
        heart.server.pools.touch(task.pool)
        await scale(heart, loop, node)
        assert task.state is TaskState.DRAINING
        assert await edge.serving() == [[]]

    beat(tmp_path, scenario)


def test_there_are_as_many_containers_as_requests_need(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id, node, edge = await begin(heart, max_concurrent_inputs=10, target_concurrent_inputs=4)
        first = await node.ready(function_id)
        assert [task.slots for function in await edge.heard("set_function") for task in function.tasks] == [10]
        node.commands("start_task")
        edge.load(function_id, waiting=1, **{key(first): 7})
        assert len(await scale(heart, scaler(heart), node)) == 1  # 8 requests, 4 to a container

    beat(tmp_path, scenario)


def test_short_requests_get_fewer_containers(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id, node, edge = await begin(heart)
        task = await node.ready(function_id)
        node.commands("start_task")
        task.pool.mean_startup_s = 1.0
        ended = platform_pb2.WebRequest(function_id=function_id, task_id=task.task_id, seconds=0.5, waited_s=0.49)
        heart.server.web.ended([ended])
        edge.load(function_id, waiting=20, **{key(task): 1})
        assert await scale(heart, scaler(heart), node) == []
        task.pool.web_waiting_since -= 5  # somebody has waited all this time: they are not that short after all
        heart.server.pools.touch(task.pool)
        assert len(await scale(heart, scaler(heart), node)) > 5

    beat(tmp_path, scenario)


def test_a_deployment_serves_with_the_old_version_until_the_new_one_is_ready(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id, node, edge = await begin(heart)
        loop = scaler(heart)
        old = await node.ready(function_id)
        record = heart.server.apps.all()[0]
        record.state = api_pb2.APP_STATE_DEPLOYED
        await edge.serving()
        node.commands("start_task")
        await heart.redefine("f", function_id, webhook_config=ASGI)
        assert old.state is TaskState.READY
        assert await edge.serving() == []
        [new] = await scale(heart, loop, node)
        heart.server.tasks.ready(new)
        assert old.state is TaskState.DRAINING
        assert await edge.serving() == [[new]]
        assert await scale(heart, loop, node) == []

    beat(tmp_path, scenario)


def test_a_new_version_that_cannot_start_leaves_the_old_one_serving(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id, node, edge = await begin(heart)
        loop = scaler(heart)
        old = await node.ready(function_id)
        heart.server.apps.all()[0].state = api_pb2.APP_STATE_DEPLOYED
        node.commands("start_task")
        await heart.redefine("f", function_id, webhook_config=ASGI)
        [new] = await scale(heart, loop, node)
        failed = Result(status=Result.GENERIC_STATUS_FAILURE, exception="ImportError('secret')")
        heart.server.tasks.failed(platform_pb2.TaskFailure(task_id=new, result=failed.SerializeToString()))
        task = heart.server.tasks.get(new)
        assert task is not None
        await node.exit(task, exit_code=1)
        assert old.state is TaskState.READY
        assert not old.pool.rolling
        assert await edge.heard("fail_waiting") == []
        assert await scale(heart, loop, node) == []

    beat(tmp_path, scenario)


def test_who_waits_for_a_function_that_cannot_start_learns_why(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id, node, edge = await begin(heart)
        task = await node.start(function_id)
        failed = Result(status=Result.GENERIC_STATUS_FAILURE, exception="ImportError(\"no module 'hunter2'\")")
        heart.server.tasks.failed(platform_pb2.TaskFailure(task_id=task.task_id, result=failed.SerializeToString()))
        await node.exit(task, exit_code=1)
        [told] = await edge.heard("fail_waiting")
        assert (told.function_id, told.status, told.why) == (function_id, 500, "could not start: ImportError; its logs say more")

    beat(tmp_path, scenario)


def test_a_stopped_app_says_so_and_fails_who_waits(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id, node, edge = await begin(heart)
        await node.ready(function_id)
        await edge.heard("set_route")
        await heart.server.apps.stop(heart.server.apps.all()[0].app_id, "a test wants it")
        [route], [told], [dropped] = [await edge.heard(kind) for kind in ("set_route", "fail_waiting", "drop_function")]
        assert route.stopped
        assert (told.status, told.function_id, dropped.function_id) == (404, function_id, function_id)

    beat(tmp_path, scenario)


def test_the_requests_of_an_edge_that_went_away_count_until_it_is_back(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id, node, edge = await begin(heart)
        task = await node.ready(function_id)
        edge.load(function_id, waiting=2, **{key(task): 1})
        heart.server.web.leave(edge.session)
        assert (task.pool.web_waiting, task.web_running) == (2, 1)
        again = FakeEdge(heart)
        await again.connect(platform_pb2.WebLoad(function_id=function_id, running={task.task_id: 1}))
        assert (task.pool.web_waiting, task.web_running) == (0, 1)

    beat(tmp_path, scenario)


def test_a_restarted_server_knows_routes_and_who_serves(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id, node, _ = await begin(heart)
        task = await node.ready(function_id)
        await heart.restart()
        again, edge = FakeNode(heart), FakeEdge(heart)
        kept = platform_pb2.HeldTask(task_id=task.task_id, ready=True, address="10.128.0.9")
        assert await again.connect([kept]) == []
        await heart.server.recovery.complete.wait()
        await edge.connect()
        [route] = await edge.heard("set_route")
        [function] = await edge.heard("set_function")
        assert (route.label, route.function_id) == ("main--f-f-dev", function_id)
        assert [(known.task_id, known.address) for known in function.tasks] == [(task.task_id, "10.128.0.9")]

    beat(tmp_path, scenario)


def test_an_edge_that_was_away_learns_that_what_it_waits_for_has_gone(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id, _, _ = await begin(heart)
        function = await heart.server.functions.get(function_id)
        await heart.server.apps.stop(function.app_id, "a test wants it")
        edge = FakeEdge(heart)
        waiting = [platform_pb2.WebLoad(function_id=gone, waiting=1) for gone in (function_id, "fu-never")]
        await edge.connect(*waiting, platform_pb2.WebLoad(function_id="fu-running", running={"ta-1": 1}))
        failed = await edge.heard("fail_waiting")
        assert [(each.function_id, each.status) for each in failed] == [(function_id, 404), ("fu-never", 404)]

    beat(tmp_path, scenario)


def test_a_label_goes_to_who_deploys_last(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        wish = ASGI | {"requested_suffix": "shop", "custom_domains": [{"name": "shop.example.com"}]}
        first = await heart.define("one", webhook_config=wish)
        second = await heart.define("two", webhook_config=wish)
        assert (await heart.server.functions.get(first)).definition.web_url_info.label_stolen is False
        assert (await heart.server.functions.get(second)).definition.web_url_info.label_stolen is True
        [route] = list(heart.server.web_routes)
        assert (route.function_id, route.custom_domains) == (second, ["shop.example.com"])
        await heart.restart()
        [route] = list(heart.server.web_routes)
        assert (route.function_id, route.custom_domains) == (second, ["shop.example.com"])

    beat(tmp_path, scenario)


def test_one_of_two_labels_that_another_app_took_stays_taken(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        methods = {
            name: api_pb2.MethodDefinition(
                function_name=f"Both.{name}",
                webhook_config=api_pb2.WebhookConfig(type=api_pb2.WEBHOOK_TYPE_ASGI_APP, requested_suffix=name),
            )
            for name in ("shop", "zoo")
        }
        first = await heart.define("Both.*", is_class=True, is_method=False, method_definitions=methods)
        second = await heart.define("taker", webhook_config=ASGI | {"requested_suffix": "shop"})
        for _ in range(2):
            served = {route.label: route.function_id for route in heart.server.web_routes}
            assert served == {"main--shop-dev": second, "main--zoo-dev": first}
            await heart.restart()

    beat(tmp_path, scenario)


def test_no_function_takes_a_host_of_the_platform(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        with pytest.raises(errors.InvalidInput, match="no address"):
            await heart.define("f", webhook_config=ASGI | {"custom_domains": [{"name": "127.0.0.1"}]})
        assert list(heart.server.web_routes) == []

    beat(tmp_path, scenario)


def test_parameters_of_a_class_choose_the_containers(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id = await greeter(heart)
        node, edge = FakeNode(heart), FakeEdge(heart)
        await node.connect()
        await edge.connect()
        [route] = await edge.heard("set_route")
        assert (route.label, route.method_name, route.parameters) == ("main--greeter-greeter-hello-dev", "hello", ["who"])
        await edge.heard("set_function")
        ann = await heart.server.web.bind(function_id, {"who": "Ann"})
        assert await heart.server.web.bind(function_id, {"who": "Ann", "x": "1"}) == ann
        assert await heart.server.web.bind(function_id, {"who": "Bob"}) != ann
        assert ann in [function.function_id for function in await edge.heard("set_function")]
        edge.load(ann, waiting=1)
        [task_id] = await scale(heart, scaler(heart), node)
        task = heart.server.tasks.get(task_id)
        assert task is not None
        assert task.pool.function_id == ann
        with pytest.raises(errors.InvalidInput, match="'who'"):
            await heart.server.web.bind(function_id, {})

    beat(tmp_path, scenario)


async def greeter(heart: Heart) -> str:
    spec = api_pb2.ClassParameterSpec(name="who", type=api_pb2.PARAM_TYPE_STRING)
    info = api_pb2.ClassParameterInfo(format=api_pb2.ClassParameterInfo.PARAM_SERIALIZATION_FORMAT_PROTO, schema=[spec])
    method = api_pb2.MethodDefinition(function_name="Greeter.hello", webhook_config=ASGI)
    return await heart.define("Greeter.*", is_class=True, class_parameter_info=info, method_definitions={"hello": method})


def test_parameters_that_could_not_be_bound_take_nobodys_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        function_id = await greeter(heart)
        monkeypatch.setattr(web, "MAX_PARAMETER_SETS", 1)

        def refuse(connection: Connection) -> None:
            connection.execute(text("CREATE TRIGGER no BEFORE INSERT ON functions BEGIN SELECT RAISE(ABORT, 'broken'); END"))

        await heart.server.database.write(refuse)
        with pytest.raises(Exception, match="broken"):
            await heart.server.web.bind(function_id, {"who": "Ann"})
        await heart.server.database.write(lambda connection: connection.execute(text("DROP TRIGGER no")))
        bob = await heart.server.web.bind(function_id, {"who": "Bob"})
        assert await heart.server.web.bind(function_id, {"who": "Bob"}) == bob
        with pytest.raises(errors.OverLimit):
            await heart.server.web.bind(function_id, {"who": "Ann"})

    beat(tmp_path, scenario)


def test_parameters_of_strangers_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        function_id = await greeter(heart)
        node = FakeNode(heart)
        await node.connect()
        ids = {who: await heart.server.web.bind(function_id, {"who": who}) for who in ("stranger", "caller", "worker")}
        call = await heart.call(ids["caller"])
        await heart.server.calls.cancel(call.call_id)
        await node.exit(await node.start(ids["worker"]))
        assert await heart.server.web.collect() == 0
        monkeypatch.setattr(web, "IDLE_SET_S", -1.0)
        assert await heart.server.web.collect() == 3
        with pytest.raises(errors.NotFound):
            await heart.server.functions.get(ids["stranger"])
        for used in ("caller", "worker"):  # books and results still speak of these
            assert (await heart.server.functions.get(ids[used])).parent_id == function_id
        assert await heart.server.web.bind(function_id, {"who": "stranger"}) == ids["stranger"]
        assert (await heart.server.functions.get(ids["stranger"])).parent_id == function_id

    beat(tmp_path, scenario)


def test_a_server_is_reached_by_its_port(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        http = api_pb2.HTTPConfig(port=8000, startup_timeout=30, exit_grace_period=5)
        function_id = await heart.define("Echo", is_server=True, is_class=True, http_config=http)
        node, edge = FakeNode(heart), FakeEdge(heart)
        await node.connect()
        await edge.connect()
        [route] = await edge.heard("set_route")
        assert (route.kind, route.port, route.requires_proxy_auth) == (platform_pb2.WebRoute.PORT, 8000, True)
        await node.start(function_id)
        [command] = node.commands("start_task")
        assert (command.server.port, command.server.startup_timeout_s, command.server.exit_grace_period_s) == (8000, 30, 5)
        ended = [
            platform_pb2.WebRequest(
                function_id=function_id, task_id="ta-1", method="GET", path=f"/{n}", status=200, began_at_ns=n * 10**9
            )
            for n in (1, 2, 62)
        ]
        heart.server.web.ended(ended)
        await heart.server.output_database.write(lambda connection: None)
        requests = heart.server.web_requests
        assert [row.route for row in await requests.newest(function_id, 2)] == ["GET /2", "GET /62"]
        assert [row.at for row in await requests.between(function_id, 1, 62, 0)] == [1.0, 2.0]
        assert await requests.counts(function_id, 0, 120, 60) == [(0.0, 2), (60.0, 1)]
        handle = (await heart.server.functions.get(function_id)).handle
        assert list(handle._experimental_flash_urls) == ["http://main--echo-echo-dev.localhost:9980"]

    beat(tmp_path, scenario)


def test_a_run_that_is_published_anew_stays_a_run(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id = await heart.define(webhook_config=ASGI)
        [app] = heart.server.apps.all()
        again = api_pb2.AppPublishRequest(
            app_id=app.app_id,
            function_ids={"f": function_id},
            definition_ids={function_id: (await heart.server.functions.get(function_id)).definition_id},
        )
        await heart.server.apps.publish(again, "test", "1.6.4")
        assert app.is_run

    beat(tmp_path, scenario)
