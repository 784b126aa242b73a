"""What a container can do with ids that are not its own: requests at its gateway that name objects of another environment."""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import modal
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpclib import GRPCError, Status
from grpclib.client import Channel
from grpclib.const import Cardinality
from modal_proto import api_grpc, api_pb2
from platform_in_process import Platform

from pilotlight.control.creation import Creation
from pilotlight.control.owners import Owners
from pilotlight.control.permissions import Permissions
from pilotlight.core import errors
from pilotlight.core.permissions import FIELDS, RULES, Kind, Scope
from pilotlight.store.owners import owner_of
from pilotlight.wire.raw import RawCodec, RawStatusDetails

METHODS = {method.name: method for method in api_pb2.DESCRIPTOR.services_by_name["ModalClient"].methods}
DEADLINE_S = 30
HIDDEN = "a secret of theirs"


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    running = Platform()
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[modal.Client]:
    before = dict(os.environ)
    os.environ |= {
        "MODAL_SERVER_URL": platform.url,
        "MODAL_TOKEN_ID": platform.token[0],
        "MODAL_TOKEN_SECRET": platform.token[1],
        "MODAL_DISABLE_API_PROXY": "1",
        "MODAL_CONFIG_PATH": str(platform.settings.state / "modal.toml"),
    }
    try:
        with modal.Client.from_credentials(*platform.token) as client:
            yield client
    finally:
        os.environ.clear()
        os.environ |= before


def programs() -> tuple[Callable[[str], str], Callable[[], str]]:
    """What runs in containers, which do not have this module."""

    def stay(path: str) -> str:
        import time
        from pathlib import Path

        while Path(path).exists():
            time.sleep(0.02)
        return "stayed"

    def give() -> str:
        import os

        return os.environ.get("HIDDEN", "")

    return stay, give


@dataclass(frozen=True)
class Container:
    """A container that runs, and the door through which it speaks."""

    task_id: str
    app_id: str
    call_id: str
    input_id: str
    function_id: str
    socket: Path

    def ask(self, name: str, request: Message) -> Any:
        """What the platform replies to this container; of a stream the first message. Raises GRPCError."""

        async def call() -> Any:
            channel = Channel(path=str(self.socket))
            try:
                method = getattr(api_grpc.ModalClientStub(channel), name)
                if not METHODS[name].server_streaming:
                    return await method(request, timeout=DEADLINE_S)
                async with method.open(timeout=DEADLINE_S) as stream:
                    await stream.send_message(request, end=True)
                    return await stream.recv_message()
            finally:
                channel.close()

        return asyncio.run(call())

    def refused(self, name: str, request: Message) -> str:
        """The words with which the platform refuses."""
        with pytest.raises(GRPCError) as raised:
            self.ask(name, request)
        assert raised.value.status is Status.PERMISSION_DENIED, raised.value
        assert raised.value.message
        return raised.value.message


@dataclass(frozen=True)
class Side:
    """All kinds of objects in one environment."""

    environment: str
    app: modal.App
    container: Container
    ids: dict[str, str]


class Holding:
    """A function in its container for as long as a file is there."""

    def __init__(self, platform: Platform, client: modal.Client, environment: str, tmp: Path, **options: Any) -> None:
        self.file = tmp / f"{environment}-{len(list(tmp.iterdir()))}"
        self.file.touch()
        self.app = modal.App(f"app-{self.file.name}")
        stay, give = programs()
        self.stay = self.app.function(serialized=True, name="stay", **options)(stay)
        self.app.function(serialized=True, name="give", secrets=[modal.Secret.from_dict({"HIDDEN": HIDDEN})])(give)
        self.app.deploy(client=client, environment_name=environment)
        self.call = self.stay.spawn(str(self.file))
        assert self.app.app_id
        self.container = self._await(platform, self.app.app_id, self.call.object_id)

    def _await(self, platform: Platform, app_id: str, call_id: str) -> Container:
        async def look() -> Container:
            while True:
                for task in platform.server.tasks.of_app(app_id):
                    if task.held:
                        socket = platform.settings.gateway_dir / f"{task.task_id}.sock"
                        return Container(task.task_id, app_id, call_id, next(iter(task.held)), task.pool.function_id, socket)
                await asyncio.sleep(0.02)

        return platform.call(look())

    def end(self) -> None:
        self.file.unlink(missing_ok=True)
        assert self.call.get(timeout=DEADLINE_S) == "stayed"


def side(platform: Platform, client: modal.Client, environment: str, holding: Holding) -> Side:
    named: dict[str, Any] = {
        "dict_id": modal.Dict.from_name("things", create_if_missing=True, environment_name=environment),
        "queue_id": modal.Queue.from_name("things", create_if_missing=True, environment_name=environment),
        "volume_id": modal.Volume.from_name("things", create_if_missing=True, environment_name=environment, version=2),
    }
    modal.Secret.objects.create("things", {"HIDDEN": HIDDEN}, environment_name=environment, client=client)
    named["secret_id"] = modal.Secret.from_name("things", environment_name=environment)
    ids = {field: thing.hydrate(client).object_id for field, thing in named.items()}
    container = holding.container
    ids |= {
        "app_id": container.app_id,
        "function_id": container.function_id,
        "function_call_id": container.call_id,
        "task_id": container.task_id,
        "shared_volume_id": platform.call(
            platform.server.network_file_systems.get_or_create(environment, "things", Creation.IF_MISSING, environment)
        ).object_id,
        "class_id": platform.call(platform.server.functions.create_class(container.app_id, "", environment)),
    }
    return Side(environment, holding.app, container, ids)


@pytest.fixture(scope="module")
def both(platform: Platform, client: modal.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    """Mine and theirs, each in an environment of its own."""
    tmp = tmp_path_factory.mktemp("holding")
    holdings: list[Holding] = []
    for environment in ("mine", "theirs"):
        modal.Environment.objects.create(environment, client=client)
        holdings.append(Holding(platform, client, environment, tmp))
    mine, theirs = holdings
    yield side(platform, client, "mine", mine), side(platform, client, "theirs", theirs)
    for holding in holdings:
        holding.end()


def with_ids(name: str, ids: dict[str, str]) -> list[Message]:
    """A request for each id at its top that can be filled; of an RPC that names nothing else: none."""
    kind = GetMessageClass(METHODS[name].input_type)
    aliases = {"existing_function_id": "function_id", "existing_class_id": "class_id", "container_id": "task_id"}
    requests: list[Message] = []
    for field in METHODS[name].input_type.fields:
        key = aliases.get(field.name, field.name)
        if key in ids and field.message_type is None and not field.is_repeated:
            requests.append(kind(**{field.name: ids[key]}))
    return requests


BY_ID = [
    name
    for name, rule in RULES.items()
    if rule.scope is Scope.OBJECTS
    and with_ids(
        name,
        dict.fromkeys(
            (
                "dict_id",
                "queue_id",
                "volume_id",
                "shared_volume_id",
                "secret_id",
                "app_id",
                "function_id",
                "function_call_id",
                "task_id",
                "class_id",
            ),
            "x",
        ),
    )
]


@pytest.mark.parametrize("name", BY_ID)
def test_an_id_of_another_environment_opens_nothing(both: tuple[Side, Side], name: str) -> None:
    mine, theirs = both
    for request in with_ids(name, theirs.ids):
        words = mine.container.refused(name, request)
        assert "another environment" in words


def test_memory_and_rows_agree_on_whose_an_object_is(platform: Platform, both: tuple[Side, Side]) -> None:
    server = platform.server
    owners = Owners(database=server.database, apps=server.apps, functions=server.functions, calls=server.calls)
    environments = [platform.call(owners.of(Kind.APP, one.ids["app_id"])) for one in both]
    assert len({owner.environment_id for owner in environments if owner}) == 2
    bind = api_pb2.FunctionBindParamsRequest(function_id=both[1].ids["function_id"], serialized_params=b"x")
    bound_id = both[1].container.ask("FunctionBindParams", bind).bound_function_id
    start = api_pb2.FunctionAsyncInvokeRequest(function_id=bound_id)
    call_id = both[1].container.ask("FunctionAsyncInvoke", start).function_call_id
    for field, object_id in [*both[1].ids.items(), ("function_id", bound_id), ("function_call_id", call_id)]:
        kind = FIELDS[field]
        on_disk = platform.call(server.database.read(partial(owner_of, kind=kind, object_id=object_id)))
        assert on_disk == platform.call(owners.of(kind, object_id)) and on_disk is not None, field
        assert environments[1] and on_disk.environment_id == environments[1].environment_id
        assert platform.call(server.database.read(partial(owner_of, kind=kind, object_id=f"{object_id[:3]}nothing"))) is None
        behind = {"function_call_id": (both[1].ids["function_id"],)}.get(field, ())
        assert on_disk.behind == {call_id: (bound_id, bind.function_id), bound_id: (bind.function_id,)}.get(object_id, behind)


def test_nothing_of_theirs_was_changed_by_all_that(both: tuple[Side, Side], client: modal.Client) -> None:
    _, theirs = both
    assert modal.Dict.from_name("things", environment_name="theirs").hydrate(client).len() == 0
    assert modal.Function.from_name(theirs.app.name or "", "give", environment_name="theirs").hydrate(client).remote() == HIDDEN


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.scope is Scope.PERSON])
def test_what_needs_a_token_is_refused(both: tuple[Side, Side], name: str) -> None:
    request = GetMessageClass(METHODS[name].input_type)()
    assert "token" in both[0].container.refused(name, request)


@pytest.mark.parametrize("name", ["AppGetLogs", "AppFetchLogs", "AppCountLogs"])
def test_the_output_of_others_is_not_read(both: tuple[Side, Side], name: str, platform: Platform) -> None:
    mine, theirs = both
    kind = GetMessageClass(METHODS[name].input_type)
    assert "output" in mine.container.refused(name, kind(app_id=theirs.ids["app_id"]))
    own = kind(app_id=mine.ids["app_id"])
    if name == "AppGetLogs":
        own.timeout = 0.1
    mine.container.ask(name, own)


def test_nobody_speaks_for_another_container(both: tuple[Side, Side]) -> None:
    mine, theirs = both
    stop = api_pb2.ContainerStopRequest(task_id=theirs.container.task_id, graceful=False)
    assert theirs.container.task_id in mine.container.refused("ContainerStop", stop)
    put = api_pb2.FunctionCallPutDataRequest(function_call_id=theirs.container.call_id, data_chunks=[api_pb2.DataChunk(index=1)])
    assert "does not work on" in mine.container.refused("FunctionCallPutDataOut", put)
    get = api_pb2.FunctionCallGetDataRequest(function_call_id=theirs.container.call_id)
    assert "does not work on" in mine.container.refused("FunctionCallGetDataIn", get)


def test_a_call_that_is_named_twice_is_the_one_that_the_server_would_read(both: tuple[Side, Side]) -> None:
    mine, theirs = both
    calls = (mine.container.call_id, theirs.container.call_id)
    forged = b"".join(api_pb2.FunctionCallPutDataRequest(function_call_id=call_id).SerializeToString() for call_id in calls)

    async def put() -> None:
        channel = Channel(path=str(mine.container.socket), codec=RawCodec(), status_details_codec=RawStatusDetails())
        path = "/modal.client.ModalClient/FunctionCallPutDataOut"
        try:
            async with channel.request(path, Cardinality.UNARY_UNARY, bytes, bytes, timeout=DEADLINE_S) as stream:
                await stream.send_message(forged, end=True)
                await stream.recv_message()
        finally:
            channel.close()

    with pytest.raises(GRPCError, match=theirs.container.call_id) as raised:
        asyncio.run(put())
    assert raised.value.status is Status.PERMISSION_DENIED


class TestLookingUp:
    """By name, and in which environment."""

    def test_objects_elsewhere_are_found_by_name_and_then_used(self, platform: Platform, both: tuple[Side, Side]) -> None:
        mine, theirs = both
        wanted = api_pb2.DictGetOrCreateRequest(deployment_name="found", environment_name="theirs")
        wanted.object_creation_type = api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
        dict_id = theirs.container.ask("DictGetOrCreate", wanted).dict_id
        assert "look it up" in mine.container.refused("DictLen", api_pb2.DictLenRequest(dict_id=dict_id))
        wanted.object_creation_type = api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED
        assert mine.container.ask("DictGetOrCreate", wanted).dict_id == dict_id
        assert mine.container.ask("DictLen", api_pb2.DictLenRequest(dict_id=dict_id)).len == 0
        assert "token" in mine.container.refused("DictDelete", api_pb2.DictDeleteRequest(dict_id=dict_id))

        async def after_a_restart() -> bool:
            server = platform.server
            again = Permissions(
                found_database=server.output_database,
                tasks=server.tasks,
                environments=server.environments,
                owners=Owners(database=server.database, apps=server.apps, functions=server.functions, calls=server.calls),
                may_leave_environment=True,
            )
            await again.restore()
            return dict_id in (await again.container(mine.container.task_id)).found

        assert platform.call(after_a_restart())

    def test_a_function_elsewhere_is_found_and_called_and_its_call_is_ones_own(self, both: tuple[Side, Side]) -> None:
        mine, theirs = both
        get = api_pb2.FunctionGetRequest(app_name=theirs.app.name, object_tag="give", environment_name="theirs")
        found = mine.container.ask("FunctionGet", get)
        start = api_pb2.FunctionMapRequest(function_id=found.function_id, function_call_type=api_pb2.FUNCTION_CALL_TYPE_UNARY)
        start.pipelined_inputs.add(idx=0).input.args = b"\x80\x04)}\x86."  # pickled ((), {})
        start.pipelined_inputs[0].input.data_format = api_pb2.DATA_FORMAT_PICKLE
        call_id = mine.container.ask("FunctionMap", start).function_call_id
        outputs = mine.container.ask("FunctionGetOutputs", api_pb2.FunctionGetOutputsRequest(function_call_id=call_id, timeout=20))
        assert outputs.outputs[0].result.status == api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
        # What its containers hold stays as its author has said.
        bind = api_pb2.FunctionBindParamsRequest(function_id=found.function_id, environment_name="theirs")
        assert mine.container.ask("FunctionBindParams", bind).bound_function_id
        bind.function_options.volume_mounts.add(volume_id=mine.ids["volume_id"], mount_path="/root")
        assert "may not change" in mine.container.refused("FunctionBindParams", bind)
        # Its app is not opened by it.
        assert mine.container.refused("AppStop", api_pb2.AppStopRequest(app_id=theirs.ids["app_id"]))
        assert mine.container.refused("AppGetLogs", api_pb2.AppGetLogsRequest(app_id=theirs.ids["app_id"]))

    @pytest.mark.parametrize(
        "request_",
        [
            api_pb2.SecretGetOrCreateRequest(deployment_name="things", environment_name="theirs"),
            api_pb2.SecretListRequest(environment_name="theirs"),
            api_pb2.DictListRequest(environment_name="theirs"),
            api_pb2.AppListRequest(environment_name="theirs"),
            api_pb2.TaskListRequest(environment_name="theirs"),
            api_pb2.AppCreateRequest(environment_name="theirs", description="mine"),
            api_pb2.AppGetOrCreateRequest(environment_name="theirs", app_name="mine"),
            api_pb2.VolumeGetOrCreateRequest(
                deployment_name="v",
                environment_name="theirs",
                object_creation_type=api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS,
            ),
            api_pb2.DictGetOrCreateRequest(environment_name="theirs", object_creation_type=api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL),
            api_pb2.ImagePublishRequest(image_id="im-1", tag="theirs/image"),
            api_pb2.ImageNameDeleteRequest(tag="theirs/image"),
        ],
        ids=lambda request: type(request).__name__,
    )
    def test_nothing_elsewhere_is_listed_made_or_read_that_is_secret(self, both: tuple[Side, Side], request_: Message) -> None:
        name = type(request_).__name__.removesuffix("Request")
        assert both[0].container.refused(name, request_)

    def test_who_names_no_environment_means_its_own(self, both: tuple[Side, Side]) -> None:
        mine, _ = both
        found = mine.container.ask("DictGetOrCreate", api_pb2.DictGetOrCreateRequest(deployment_name="things"))
        assert found.dict_id == mine.ids["dict_id"]


class TestDeploying:
    """A container defines functions; what they are given must be its to give."""

    def test_stolen_secrets_volumes_and_dependencies_are_not_given(self, both: tuple[Side, Side]) -> None:
        mine, theirs = both
        app_id = mine.container.ask("AppCreate", api_pb2.AppCreateRequest(description="made")).app_id
        stolen = [
            api_pb2.Function(function_name="f", secret_ids=[theirs.ids["secret_id"]]),
            api_pb2.Function(function_name="f", volume_mounts=[api_pb2.VolumeMount(volume_id=theirs.ids["volume_id"])]),
            api_pb2.Function(function_name="f", object_dependencies=[api_pb2.ObjectDependency(object_id=theirs.ids["dict_id"])]),
        ]
        for function in stolen:
            assert mine.container.refused("FunctionCreate", api_pb2.FunctionCreateRequest(app_id=app_id, function=function))
        image = api_pb2.Image(dockerfile_commands=["FROM base"], secret_ids=[theirs.ids["secret_id"]])
        assert mine.container.refused("ImageGetOrCreate", api_pb2.ImageGetOrCreateRequest(app_id=app_id, image=image))
        # The output of an app that one has made may be read.
        assert mine.container.ask("AppFetchLogs", api_pb2.AppFetchLogsRequest(app_id=app_id)) is not None

    def test_the_definition_of_anothers_function_can_not_be_made_that_of_ones_own(
        self, platform: Platform, both: tuple[Side, Side]
    ) -> None:
        mine, theirs = both
        their_definition = platform.call(platform.server.functions.get(theirs.ids["function_id"])).definition_id
        function_id = mine.container.function_id
        before = platform.call(platform.server.functions.get(function_id)).definition_id
        publish = api_pb2.AppPublishRequest(app_id=mine.ids["app_id"], app_state=api_pb2.APP_STATE_EPHEMERAL)
        publish.function_ids["stay"] = function_id
        publish.definition_ids[function_id] = their_definition
        mine.container.ask("AppPublish", publish)
        assert platform.call(platform.server.functions.get(function_id)).definition_id == before
        publish.definition_ids[theirs.ids["function_id"]] = their_definition
        assert mine.container.refused("AppPublish", publish)


@pytest.fixture(scope="module")
def holding(platform: Platform, client: modal.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holding]:
    """A restricted container."""
    holding = Holding(platform, client, "main", tmp_path_factory.mktemp("restricted"), restrict_modal_access=True)
    yield holding
    holding.end()  # its output arrives as that of any other


class TestRestricted:
    """restrict_modal_access=True"""

    @pytest.mark.parametrize("name", [name for name, rule in RULES.items() if not rule.for_restricted])
    def test_it_may_do_nothing_but_work_on_its_inputs(self, holding: Holding, name: str) -> None:
        request = GetMessageClass(METHODS[name].input_type)()
        words = holding.container.refused(name, request)
        assert "restrict_modal_access" in words or RULES[name].scope is Scope.PERSON

    def test_it_may_do_what_its_inputs_need(self, holding: Holding) -> None:
        assert holding.container.ask("BlobCreate", api_pb2.BlobCreateRequest(content_length=3)).blob_id
        held = holding.container.ask("TaskCurrentInputs", Empty())
        assert list(held.input_ids) == [holding.container.input_id]

    def test_a_newer_version_without_the_restriction_changes_nothing_for_it(
        self, platform: Platform, client: modal.Client, holding: Holding
    ) -> None:
        again = modal.App(holding.app.name)
        again.function(serialized=True, name="stay")(programs()[0])
        again.deploy(client=client, environment_name="main")
        look_up = api_pb2.DictGetOrCreateRequest(deployment_name="d")
        assert "restrict_modal_access" in holding.container.refused("DictGetOrCreate", look_up)
        task = platform.server.tasks.get(holding.container.task_id)
        assert task is not None and task.is_outdated
        restored = platform.call(platform.server.pools.definition_of(task.pool, task.definition_id))
        assert restored.untrusted and not task.pool.definition.untrusted


def test_an_operator_can_keep_containers_in_their_environment(platform: Platform, both: tuple[Side, Side]) -> None:
    server = platform.server
    mine = both[0].container

    async def enter(*, may_leave: bool) -> bool:
        permissions = Permissions(
            found_database=server.output_database,
            tasks=server.tasks,
            environments=server.environments,
            owners=Owners(database=server.database, apps=server.apps, functions=server.functions, calls=server.calls),
            may_leave_environment=may_leave,
        )
        container = await permissions.container(mine.task_id)
        return permissions.enters("DictGetOrCreate", RULES["DictGetOrCreate"], container, "theirs", 0)

    assert platform.call(enter(may_leave=True))
    with pytest.raises(errors.NotAllowed, match="PILOTLIGHT_CONTAINER_REACH"):
        platform.call(enter(may_leave=False))
