"""The objects that requests name are found in them, wherever they stand; no request names one that goes unchecked."""

import asyncio
import importlib
import inspect
import pkgutil
import re

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from modal_proto import api_pb2

import pilotlight.rpc
from pilotlight.core import errors
from pilotlight.core.permissions import ANY_KIND, FIELDS, HARMLESS, KEYS, RULES, Container, Kind, Rule, Scope
from pilotlight.rpc.permissions import ENVIRONMENT, Guard, named_fields

METHODS = {method.name: method for method in api_pb2.DESCRIPTOR.services_by_name["ModalClient"].methods}
NAMES_AN_OBJECT = re.compile(r"(^|_)(id|ids)$")
ID = "xx-0123456789ABCDEFGHIJKL"


def built() -> set[str]:
    found: set[str] = set()
    for module in pkgutil.iter_modules(pilotlight.rpc.__path__):
        loaded = importlib.import_module(f"pilotlight.rpc.{module.name}")
        for name, kind in inspect.getmembers(loaded, inspect.isclass):
            if name.endswith("Handlers"):
                found |= {member for member, _ in inspect.getmembers(kind, callable) if member[0].isupper()}
    return found


class Everything:
    """Permissions that let all pass and write down what they were asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Kind, str, bool]] = []
        self.entered: list[str] = []
        self.found: list[str] = []

    async def container(self, task_id: str) -> Container:
        return Container(task_id, "f", "fu-f", "ap-a", "en-mine", is_restricted=False, given=(), found=())

    def own_environment(self, container: Container) -> api_pb2.EnvironmentListItem:
        return api_pb2.EnvironmentListItem(name="mine")

    def holds(self, task_id: str, input_id: str) -> bool:
        return input_id == "in-held"

    async def check(self, name: str, rule: Rule, container: Container, objects: list[tuple[Kind, str, bool]]) -> None:
        self.asked += objects

    def enters(self, name: str, rule: Rule, container: Container, environment_name: str, creation: int) -> bool:
        self.entered.append(environment_name)
        return environment_name != "mine"

    async def find(self, container: Container, object_ids: list[str]) -> None:
        self.found += object_ids


def admitted(name: str, request: Message, reply: Message | None = None) -> Everything:
    permissions = Everything()

    async def ask() -> None:
        guard = Guard(permissions, "main")  # type: ignore[arg-type]
        container = await guard.admit(name, "ta-1", request)
        if container is not None and reply is not None:
            await guard.keep(container, reply)

    asyncio.run(ask())
    return permissions


def test_every_rpc_that_the_server_answers_has_a_rule_and_none_has_two() -> None:
    assert built() == RULES.keys(), "core/permissions.py says what a container may do by each RPC"


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_id_in_a_request_is_checked_or_known_to_be_harmless(name: str) -> None:
    known = FIELDS.keys() | KEYS.keys() | HARMLESS.keys() | {ANY_KIND}
    if RULES[name].scope in (Scope.PERSON, Scope.OPEN):
        return
    unknown = {
        ".".join(path)
        for path, _ in named_fields(METHODS[name].input_type)
        if NAMES_AN_OBJECT.search(path[-1]) and path[-1] not in known
    }
    assert not unknown, f"say in core/permissions.py what these name: {unknown}"


def fill(message: Message, path: tuple[str, ...]) -> None:
    """Write an id into a field, however deep."""
    *outer, last = path
    for name in outer:
        inner = getattr(message, name)
        field = message.DESCRIPTOR.fields_by_name[name]
        if field.message_type.GetOptions().map_entry:
            message = inner["some"]
        elif field.is_repeated:
            message = inner.add()
        else:
            inner.SetInParent()
            message = inner
    field = message.DESCRIPTOR.fields_by_name[last]
    if field.message_type is not None:  # a map of texts
        getattr(message, last)[ID if last in KEYS else "some"] = "other" if last in KEYS else ID
    elif field.is_repeated:
        getattr(message, last).append(ID)
    else:
        setattr(message, last, ID)


PATHS = [
    (name, path)
    for name, rule in sorted(RULES.items())
    if rule.scope not in (Scope.PERSON, Scope.OPEN)
    for path, _ in named_fields(METHODS[name].input_type)
    if path[-1] in FIELDS or path[-1] in KEYS
]


@pytest.mark.parametrize(("name", "path"), PATHS, ids=[f"{name}-{'.'.join(path)}" for name, path in PATHS])
def test_an_id_is_found_wherever_it_stands(name: str, path: tuple[str, ...]) -> None:
    request = GetMessageClass(METHODS[name].input_type)()
    fill(request, path)
    if name == "ImagePublish":
        request.tag = "image"
    asked = [(kind, object_id) for kind, object_id, _ in admitted(name, request).asked]
    assert (FIELDS.get(path[-1]) or KEYS[path[-1]], ID) in asked


def test_a_dependency_is_checked_for_what_its_id_says_that_it_is() -> None:
    request = api_pb2.FunctionCreateRequest(app_id="ap-1")
    for object_id in ("vo-1", "di-1", "st-1", "im-1"):
        request.function.object_dependencies.add(object_id=object_id)
    kinds = {object_id: kind for kind, object_id, _ in admitted("FunctionCreate", request).asked}
    assert kinds == {"ap-1": Kind.APP, "vo-1": Kind.VOLUME, "di-1": Kind.DICT, "st-1": Kind.SECRET}


def test_what_containers_of_a_function_hold_and_run_is_a_change_of_it() -> None:
    request = api_pb2.FunctionBindParamsRequest(function_id="fu-1")
    assert admitted("FunctionBindParams", request).asked == [(Kind.FUNCTION, "fu-1", False)]
    request.function_options.mount_ids.append("mo-1")
    assert admitted("FunctionBindParams", request).asked == [(Kind.FUNCTION, "fu-1", True)]


def test_a_call_has_no_parent_but_one_that_its_container_works_on() -> None:
    for given, kept in (("in-held", "in-held"), ("in-stolen", "")):
        request = api_pb2.FunctionMapRequest(function_id="fu-1", parent_input_id=given)
        admitted("FunctionMap", request)
        assert request.parent_input_id == kept


def test_who_names_no_environment_means_its_own() -> None:
    request = api_pb2.DictGetOrCreateRequest(deployment_name="d")
    reply = api_pb2.DictGetOrCreateResponse(dict_id="di-1")
    permissions = admitted("DictGetOrCreate", request, reply)
    assert getattr(request, ENVIRONMENT) == "mine"
    assert not permissions.found


def test_what_is_found_elsewhere_is_remembered_and_what_the_reply_mentions_besides_is_not() -> None:
    reply = api_pb2.FunctionGetResponse(function_id="fu-found")
    reply.handle_metadata.app_id = "ap-theirs"
    request = api_pb2.FunctionGetRequest(app_name="a", object_tag="f", environment_name="theirs")
    assert admitted("FunctionGet", request, reply).found == ["fu-found"]
    assert admitted("AppCreate", api_pb2.AppCreateRequest(), api_pb2.AppCreateResponse(app_id="ap-made")).found == ["ap-made"]


def test_the_environment_in_front_of_an_images_name_counts() -> None:
    assert admitted("ImageGetByTag", api_pb2.ImageGetByTagRequest(tag="theirs/image")).entered == ["theirs"]
    assert admitted("ImageNameDelete", api_pb2.ImageNameDeleteRequest(tag="theirs/image")).entered == ["theirs"]


def test_an_images_name_that_is_deleted_is_one_of_the_containers_own_environment() -> None:
    for given in ("image", "image:latest"):
        request = api_pb2.ImageNameDeleteRequest(tag=given)
        assert admitted("ImageNameDelete", request).entered == ["mine"]
        assert request.tag == "main/mine/image:latest"


def test_a_container_makes_no_environment() -> None:
    request = api_pb2.EnvironmentGetOrCreateRequest(deployment_name="new")
    admitted("EnvironmentGetOrCreate", request)
    request.object_creation_type = api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
    with pytest.raises(errors.NotAllowed):
        admitted("EnvironmentGetOrCreate", request)
