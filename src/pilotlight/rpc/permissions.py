"""What a request of a container names, read out of the message by its fields, and held against the rules before a handler runs."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from modal_proto import api_pb2

from pilotlight.control.permissions import Permissions
from pilotlight.core import errors
from pilotlight.core.image_names import split
from pilotlight.core.permissions import ANY_KIND, CHANGED, FIELDS, KEYS, Container, Kind, Rule, Scope, kind_of, rule_of

ENVIRONMENT = "environment_name"
PARENT = "parent_input_id"
CREATION = "object_creation_type"
_IMAGE_NAMES = frozenset({"ImagePublish", "ImageGetByTag", "ImageTagRevisions", "ImageNameDelete"})
_MAKES = frozenset({"AppCreate"})  # what a container has made is its own, as if it had found it
# What a container of another's function would hold or run, if the caller could say so.
_CONTENTS = ("secret_ids", "mount_ids", "volume_mounts", "cloud_bucket_mounts")

Path = tuple[str, ...]


class Guard:
    """Stands before the handlers of what containers ask."""

    def __init__(self, permissions: Permissions, workspace: str) -> None:
        self._permissions = permissions
        self._workspace = workspace

    async def admit(self, name: str, task_id: str, request: Message) -> Container | None:
        """Let a request pass or raise NotAllowed. A container is returned where what the reply names will be its to use."""
        container = await self._permissions.container(task_id)
        rule = rule_of(name, container)
        self._drop_foreign_parent(task_id, request)
        if rule.scope is not Scope.OPEN:
            objects = list(_objects(name, request))
            if objects:
                await self._permissions.check(name, rule, container, objects)
        is_elsewhere = self._look_at_environment(name, rule, container, request)
        return container if is_elsewhere or name in _MAKES else None

    async def keep(self, container: Container, reply: Message) -> None:
        """Remember what a container has found: what the reply is about, not what else it mentions."""
        ids = [object_id for path, read in _readers(reply.DESCRIPTOR) if len(path) == 1 for object_id in read(reply)]
        await self._permissions.find(container, ids)

    def _drop_foreign_parent(self, task_id: str, request: Any) -> None:
        """A call begins in an input that its container works on, or in none: nobody puts it into the history of another's."""
        if PARENT in request.DESCRIPTOR.fields_by_name:
            parent = request.parent_input_id
            if parent and not self._permissions.holds(task_id, parent):
                request.ClearField(PARENT)

    def _look_at_environment(self, name: str, rule: Rule, container: Container, request: Any) -> bool:
        """Whether the request looks something up in another environment. One that names none means its container's own."""
        if name == "EnvironmentGetOrCreate" and request.object_creation_type != api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            raise errors.NotAllowed("A container may not make environments. `modal environment create` does.")
        named = split(request.tag, self._workspace)[0] if name in _IMAGE_NAMES else ""
        fields = request.DESCRIPTOR.fields_by_name
        if ENVIRONMENT in fields:
            if not request.environment_name:
                request.environment_name = self._permissions.own_environment(container).name
            named = named or request.environment_name
        elif name in _IMAGE_NAMES and not named:  # the environment can stand only in front of the name
            named = self._permissions.own_environment(container).name
            request.tag = f"{self._workspace}/{named}/{split(request.tag, self._workspace)[1]}"
        if not named:
            return False
        creation = getattr(request, CREATION) if CREATION in fields else 0
        return self._permissions.enters(name, rule, container, named, creation)


def _objects(name: str, request: Any) -> Iterator[tuple[Kind, str, bool]]:
    """(kind, id, whether it would be changed) of what a request names."""
    gives_contents = name == "FunctionBindParams" and any(getattr(request.function_options, field) for field in _CONTENTS)
    for field, object_id in _named(request):
        kind = kind_of(field, object_id)
        if kind is not None:
            yield kind, object_id, field in CHANGED or (gives_contents and kind is Kind.FUNCTION)


def _named(message: Message) -> Iterator[tuple[str, str]]:
    """(field, id) of the objects that a message names, however deep."""
    for path, read in _readers(message.DESCRIPTOR):
        for object_id in read(message):
            if object_id:
                yield path[-1], object_id


def named_fields(descriptor: Descriptor, within: frozenset[str] = frozenset()) -> Iterator[tuple[Path, FieldDescriptor]]:
    """Every field of text in a message and the messages in it, but those that a message has of its own kind."""
    for field in descriptor.fields:
        inner = field.message_type
        if inner is None:
            if field.type == FieldDescriptor.TYPE_STRING:
                yield (field.name,), field
        elif inner.GetOptions().map_entry:
            yield (field.name,), field
            value = inner.fields_by_name["value"].message_type
            if value is not None and value.full_name not in within:
                for path, last in named_fields(value, within | {value.full_name}):
                    yield (field.name, *path), last
        elif inner.full_name not in within:
            for path, last in named_fields(inner, within | {inner.full_name}):
                yield (field.name, *path), last


@cache
def _readers(descriptor: Descriptor) -> tuple[tuple[Path, Callable[[Message], list[str]]], ...]:
    wanted = FIELDS.keys() | KEYS.keys() | {ANY_KIND}
    return tuple((path, _reader(path)) for path, _ in named_fields(descriptor) if path[-1] in wanted)


def _reader(path: Path) -> Callable[[Message], list[str]]:
    if len(path) == 1 and path[0] not in KEYS:
        field = path[0]
        return lambda message: _texts(getattr(message, field), field)

    def read(message: Message) -> list[str]:
        level: list[Any] = [message]
        for field in path[:-1]:
            level = [inner for outer in level for inner in _members(outer, field)]
        return [text for last in level for text in _texts(getattr(last, path[-1]), path[-1])]

    return read


def _members(message: Any, field: str) -> list[Any]:
    """The messages in a field, whether it has one or many."""
    value = getattr(message, field)
    if isinstance(value, Message):
        return [value] if message.HasField(field) else []
    return list(value.values()) if hasattr(value, "values") else list(value)


def _texts(value: Any, field: str) -> list[str]:
    if isinstance(value, str):
        return [value]
    if hasattr(value, "values"):
        return list(value) if field in KEYS else list(value.values())
    return list(value)
