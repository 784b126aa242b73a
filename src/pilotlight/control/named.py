"""Dicts, queues and volumes as objects: how they get their names, and when those without a name go.

An ephemeral object lives as long as its owner sends heartbeats, which it can't while this server is down.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from pilotlight.control.creation import Creation
from pilotlight.control.environments import Environment, Environments
from pilotlight.core import errors, ids
from pilotlight.core.names import check_object_name
from pilotlight.store import named as store
from pilotlight.store.database import Database

EPHEMERAL_TTL_S = 660.0  # clients send a heartbeat every 300 s: two may be lost
MAX_KNOWN = 100_000  # ids that are known to exist
MAX_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class NamedObject:
    """A dict, a queue or a volume; the name of an ephemeral one is empty."""

    object_id: str
    name: str
    environment_id: str
    created_at: float


class NamedObjects:
    """The objects of one kind. `word` is what people call it: "dict"."""

    def __init__(
        self,
        *,
        database: Database,
        environments: Environments,
        kind: store.Kind,
        prefix: str,
        word: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._environments = environments
        self._kind = kind
        self._prefix = prefix
        self._word = word
        self._now = now
        self._started_at = now()
        self._known: OrderedDict[str, None] = OrderedDict()

    async def get_or_create(
        self, environment_name: str, name: str, creation: Creation, request_key: str, values: Mapping[str, Any] | None = None
    ) -> tuple[NamedObject, bool]:
        """The object, and whether it was made by this request; raises NotFound, AlreadyExists. Safe to repeat under one key.

        `values` are further columns of a new one.
        """
        environment = self._environments.resolve(environment_name)
        if creation is Creation.LOOK_UP:
            return await self._look_up(environment, name), False
        if creation is Creation.OVERWRITE:
            raise errors.InvalidInput(f"A {self._word} can't be overwritten. Delete '{name}' first, or clear it.")
        is_ephemeral = creation is Creation.ANONYMOUS
        if not is_ephemeral:
            check_object_name(name, self._word)
        object_id = ids.derived(self._prefix, request_key, name) if request_key else ids.new(self._prefix)
        at = self._now()

        def work(connection: Connection) -> store.NamedRow:
            found = None if is_ephemeral else store.find(connection, self._kind, environment.environment_id, name)
            if found is not None and creation is Creation.FAIL_IF_EXISTS and found.object_id != object_id:
                title = self._word.capitalize()
                raise errors.AlreadyExists(f"{title} '{name}' already exists in environment '{environment.name}'.")
            if found is None:
                store.add(
                    connection,
                    self._kind,
                    object_id,
                    environment_id=environment.environment_id,
                    name=None if is_ephemeral else name,
                    created_at=at,
                    heartbeat_at=at if is_ephemeral else None,
                    **(values or {}),
                )
                found = store.get(connection, self._kind, object_id)
                assert found is not None
            return found

        row = await self._database.write(work)
        self._know(row.object_id)
        return _object(row), row.object_id == object_id

    async def get(self, object_id: str) -> NamedObject:
        """One object by its id; raises NotFound."""
        row = await self._database.read(lambda connection: store.get(connection, self._kind, object_id))
        if row is None:
            raise self._gone(object_id)
        return _object(row)

    async def require(self, object_id: str) -> None:
        """Make sure that the object exists, from memory as a rule; raises NotFound."""
        if object_id not in self._known:
            await self.get(object_id)
            self._know(object_id)

    async def list(
        self, environment_name: str, created_before: float = 0, limit: int = 0
    ) -> tuple[Environment, Sequence[NamedObject]]:
        """Named objects, newest first."""
        environment = self._environments.resolve(environment_name)
        before, count = created_before or float("inf"), min(limit or MAX_PAGE, MAX_PAGE)
        rows = await self._database.read(
            lambda connection: store.page(connection, self._kind, environment.environment_id, before, count)
        )
        return environment, [_object(row) for row in rows]

    async def heartbeat(self, object_id: str) -> None:
        """The owner of an ephemeral object lives; raises NotFound."""
        await self.require(object_id)
        at = self._now()
        await self._database.write(lambda connection: store.set_heartbeat(connection, self._kind, object_id, at))

    async def rename(self, object_id: str, name: str) -> None:
        """Give an object another name; raises NotFound, AlreadyExists, WrongState for an ephemeral one. Safe to repeat."""
        check_object_name(name, self._word)

        def work(connection: Connection) -> None:
            row = store.get(connection, self._kind, object_id)
            if row is None:
                raise self._gone(object_id)
            if row.name is None:
                raise errors.WrongState(f"{self._word.capitalize()} {object_id} is ephemeral and can't have a name.")
            taken = store.find(connection, self._kind, row.environment_id, name)
            if taken is not None and taken.object_id != object_id:
                raise errors.AlreadyExists(f"{self._word.capitalize()} '{name}' already exists. Choose another name.")
            store.rename(connection, self._kind, object_id, name)

        await self._database.write(work)

    async def delete(self, object_ids: Sequence[str]) -> None:
        """Remove objects with what they hold; those that are gone are no error."""
        for object_id in object_ids:
            self._known.pop(object_id, None)
        await self._database.write(lambda connection: store.remove(connection, self._kind, object_ids))

    async def ids_in(self, environment_id: str) -> Sequence[str]:
        """All objects of an environment."""
        return await self._database.read(lambda connection: store.ids_in(connection, self._kind, environment_id))

    async def abandoned(self) -> Sequence[str]:
        """Ephemeral objects whose owner is gone."""
        now = self._now()
        if now < self._started_at + EPHEMERAL_TTL_S:
            return []
        since = now - EPHEMERAL_TTL_S
        return await self._database.read(lambda connection: store.ids_without_heartbeat(connection, self._kind, since))

    async def _look_up(self, environment: Environment, name: str) -> NamedObject:
        row = await self._database.read(lambda connection: store.find(connection, self._kind, environment.environment_id, name))
        if row is None:
            raise errors.NotFound(
                f"{self._word.capitalize()} '{name}' not found in environment '{environment.name}'. Create it with "
                f"`modal {self._word} create {name}`, or pass `create_if_missing=True`."
            )
        self._know(row.object_id)
        return _object(row)

    def _know(self, object_id: str) -> None:
        self._known[object_id] = None
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _gone(self, object_id: str) -> errors.NotFound:
        title = self._word.capitalize()
        return errors.NotFound(f"{title} {object_id} not found: it was deleted, or was ephemeral and its owner is gone.")


def _object(row: store.NamedRow) -> NamedObject:
    return NamedObject(row.object_id, row.name or "", row.environment_id, row.created_at)
