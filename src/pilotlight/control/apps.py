"""Apps: what they consist of, which of them are deployed under a name, and how they end.

An app is stopped once. From then on it takes no calls, its containers go, and what waited for it ends with an output that says so.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from modal_proto import api_pb2
from sqlalchemy import Connection, Row

from pilotlight.control.environments import Environment, Environments
from pilotlight.control.functions import Functions
from pilotlight.control.volume_mounts import metadata_of
from pilotlight.core import errors, ids
from pilotlight.store import apps as store
from pilotlight.store import functions as function_rows
from pilotlight.store.database import Database

log = structlog.get_logger()

HEARTBEAT_TIMEOUT_S = 60.0  # an ephemeral app whose client says nothing for so long has lost it (it speaks every 15 s)
LISTED_AFTER_STOP_S = 24 * 3600.0
STOP_GRACE_S = 0.5  # for the exit hooks of an app that somebody stops: within a second none of its containers runs

EPHEMERAL = (api_pb2.APP_STATE_EPHEMERAL, api_pb2.APP_STATE_INITIALIZING)


@dataclass(slots=True, eq=False)
class AppRecord:
    """An app that has not stopped."""

    app_id: str
    environment_id: str
    environment_name: str
    name: str
    description: str
    state: int
    tags: dict[str, str]
    created_at: float
    heartbeat_at: float
    client_version: str
    version: int

    @property
    def title(self) -> str:
        return self.name or self.description or self.app_id

    @property
    def is_run(self) -> bool:
        """Whether it was started by `modal run` or the like, not for a deployment."""
        return self.state in (api_pb2.APP_STATE_EPHEMERAL, api_pb2.APP_STATE_DETACHED)

    @property
    def is_ephemeral(self) -> bool:
        """Whether it ends with the client that started it."""
        return self.state in EPHEMERAL


@dataclass(frozen=True, slots=True)
class Publication:
    """What AppPublish made of an app."""

    deployed_at: float
    version: int
    changed_functions: Sequence[str]


class Apps:
    """Use cases of apps. `on_stop` and `on_change` are called after the rows have changed."""

    def __init__(
        self,
        *,
        database: Database,
        environments: Environments,
        functions: Functions,
        now: Callable[[], float] = time.time,
        steady: Callable[[], float] | None = None,
    ) -> None:
        self._steady = steady or now  # by which silence is judged
        self._database = database
        self._environments = environments
        self._functions = functions
        self._now = now
        self._live: dict[str, AppRecord] = {}
        self._ending: dict[str, AppRecord] = {}
        self._layouts: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        self.is_busy: Callable[[str], bool] = lambda app_id: False  # whether an app has work to do
        self.on_stop: Callable[[AppRecord, str, float], Awaitable[None]] | None = None  # the reason, the grace in seconds
        self.on_change: Callable[[AppRecord, Sequence[str]], None] | None = None
        self.after_live: list[Callable[[AppRecord], Awaitable[None]]] = []  # what follows from what an app consists of now

    async def restore(self) -> None:
        """Read the live apps after a start; ephemeral ones get a fresh time-out, since nobody could reach us meanwhile."""
        names = {environment.environment_id: environment.name for environment in self._environments.list()}
        for row in await self._database.read(store.live_apps):
            record = _record(row, names.get(row.environment_id, ""))
            record.heartbeat_at = self._steady()
            self._live[record.app_id] = record
            await self.members(record.app_id)

    def environment_renamed(self, environment: Environment) -> None:
        """Containers that start from now on know their environment by its new name."""
        for record in self._live.values():
            if record.environment_id == environment.environment_id:
                record.environment_name = environment.name

    async def create(self, request: api_pb2.AppCreateRequest, client_version: str, key: str) -> AppRecord:
        """A new app, without a name yet."""
        environment = self._environments.resolve(request.environment_name)
        app_id = ids.derived(ids.APP, key) if key else ids.new(ids.APP)
        return await self._add(app_id, environment, request.description, request.app_state, dict(request.tags), client_version)

    async def _add(
        self,
        app_id: str,
        environment: Environment,
        description: str,
        state: int,
        tags: dict[str, str],
        client_version: str,
        name: str = "",
    ) -> AppRecord:
        now = self._now()
        row: dict[str, Any] = {
            "app_id": app_id,
            "environment_id": environment.environment_id,
            "name": name or None,
            "description": description,
            "state": state,
            "tags": tags,
            "created_at": now,
            "heartbeat_at": self._steady(),
            "client_version": client_version,
            "version": 0,
        }
        await self._database.write(lambda connection: store.insert_app(connection, row))
        fields: dict[str, Any] = {**row, "environment_name": environment.name, "name": name}
        return self._live.setdefault(app_id, AppRecord(**fields))

    async def get(self, app_id: str) -> AppRecord:
        """An app that runs. Raises NotFound, or WrongState for one that has stopped."""
        if (record := self._live.get(app_id)) is not None:
            return record
        row = await self._database.read(lambda connection: store.app_row(connection, app_id))
        if row is None:
            raise errors.NotFound(f"There is no app {app_id}.")
        raise errors.WrongState(f"App {row.name or row.description!r} ({app_id}) has stopped. Deploy or run it again.")

    def find(self, app_id: str) -> AppRecord | None:
        """An app that runs, or is just being stopped."""
        return self._live.get(app_id) or self._ending.get(app_id)

    async def row(self, app_id: str) -> Row[*tuple[Any, ...]]:
        """The row of an app, stopped or not. Raises NotFound."""
        row = await self._database.read(lambda connection: store.app_row(connection, app_id))
        if row is None:
            raise errors.NotFound(f"There is no app {app_id}.")
        return row

    async def why_stopped(self, app_id: str) -> str:
        """What to tell those who asked something of an app that has stopped."""
        row = await self.row(app_id)
        return stopped(row.name or row.description or app_id, row.stop_reason or "no reason is known")

    def title(self, app_id: str) -> str:
        """What people call an app; its id where it has stopped."""
        record = self._live.get(app_id)
        return record.title if record is not None else app_id

    def is_live(self, app_id: str) -> bool:
        return app_id in self._live

    def all(self) -> list[AppRecord]:
        return list(self._live.values())

    async def by_name(self, name: str, environment_name: str) -> AppRecord:
        """The deployed app of this name. Raises NotFound."""
        environment = self._environments.resolve(environment_name)
        for record in self._live.values():
            if record.name == name and record.environment_id == environment.environment_id:
                return record
        raise errors.NotFound(  # without a full stop, as those below: the client adds one
            f"App '{name}' not found in environment '{environment.name}'. Deploy it with `modal deploy`, or name another one"
        )

    async def get_or_create(self, name: str, environment_name: str, creation: int, client_version: str) -> AppRecord:
        """App.lookup: the app of this name, made if missing and so wished."""
        try:
            return await self.by_name(name, environment_name)
        except errors.NotFound:
            if creation != api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
                raise
        environment = self._environments.resolve(environment_name)
        return await self._add(ids.new(ids.APP), environment, name, api_pb2.APP_STATE_DEPLOYED, {}, client_version, name=name)

    async def previous_by_name(self, name: str, environment_name: str) -> Row[*tuple[Any, ...]] | None:
        environment_id = self._environments.resolve(environment_name).environment_id
        return await self._database.read(lambda connection: store.last_by_name(connection, environment_id, name))

    async def listed(self, environment_name: str) -> Sequence[Row[*tuple[Any, ...]]]:
        environment_id = self._environments.resolve(environment_name).environment_id
        since = self._now() - LISTED_AFTER_STOP_S
        return await self._database.read(lambda connection: store.list_apps(connection, environment_id, since))

    def heartbeat(self, app_id: str) -> bool:
        """The client of an app is there. False if the app has stopped."""
        record = self._live.get(app_id)
        if record is not None:
            record.heartbeat_at = self._steady()
        return record is not None

    async def publish(self, request: api_pb2.AppPublishRequest, deployed_by: str, client_version: str) -> Publication:
        """Make what a client has created the live state of the app, under a name if it is a deployment."""
        record = await self.get(request.app_id)
        deployed = request.app_state == api_pb2.APP_STATE_DEPLOYED
        if request.staged:
            raise errors.NotBuilt("Staged deployments are not built yet in Pilotlight. Deploy without --staged.")
        if deployed and not request.name:
            raise errors.InvalidInput("A deployment needs a name: give the app one, or pass --name to `modal deploy`.")
        return await self._go_live(
            record,
            state=request.app_state or record.state,  # `modal serve` names none when a program has changed
            name=request.name if deployed else record.name,
            tags=dict(request.tags),
            function_ids=dict(request.function_ids),
            class_ids=dict(request.class_ids),
            definition_ids=dict(request.definition_ids),
            deployment={
                "deployed_by": deployed_by,
                "client_version": client_version,
                "tag": request.deployment_tag,
                "commit_info": request.commit_info.SerializeToString() if request.HasField("commit_info") else None,
                "rollback_version": None,
            }
            if deployed
            else None,
        )

    async def _go_live(
        self,
        record: AppRecord,
        *,
        state: int,
        name: str,
        tags: dict[str, str],
        function_ids: dict[str, str],
        class_ids: dict[str, str],
        definition_ids: dict[str, str],
        deployment: dict[str, Any] | None,
    ) -> Publication:
        at = self._now()

        def apply(connection: Connection) -> int:
            version = record.version
            if deployment is not None:
                row = deployment | {
                    "app_id": record.app_id,
                    "deployed_at": at,
                    "function_ids": function_ids,
                    "class_ids": class_ids,
                    "definition_ids": definition_ids,
                }
                version = store.add_deployment(connection, row)
            store.update_app(connection, record.app_id, state=state, name=name or None, tags=tags, version=version)
            store.set_layout(connection, record.app_id, function_ids, class_ids)
            function_rows.set_live_definitions(connection, {key: value for key, value in definition_ids.items() if value})
            return version

        version = await self._database.write(apply)
        record.state, record.name, record.tags, record.version = state, name, tags, version
        self._layouts[record.app_id] = (function_ids, class_ids)
        changed = [function.function_id for function, before in await self._functions.refresh(record.app_id) if before]
        if self.on_change is not None:
            self.on_change(record, changed)
        for follow in self.after_live:
            await follow(record)
        log.info("app_published", app_id=record.app_id, name=name, version=version, functions=len(function_ids))
        return Publication(at, version, changed)

    async def rollback(self, app_id: str, version: int, deployed_by: str) -> Publication:
        """Make an older version live again, as a version of its own. `version` 0 or below counts from the current one."""
        record = await self.get(app_id)
        wanted = version if version > 0 else record.version + (version or -1)
        row = await self._database.read(lambda connection: store.deployment(connection, app_id, wanted))
        if row is None:
            what = f"version {wanted}" if wanted > 0 else f"version before {record.version}"
            raise errors.NotFound(f"App '{record.title}' has no {what}. `modal app history {record.title}` lists what it has.")
        return await self._go_live(
            record,
            state=api_pb2.APP_STATE_DEPLOYED,
            name=record.name,
            tags=record.tags,
            function_ids=row.function_ids,
            class_ids=row.class_ids,
            definition_ids=row.definition_ids,
            deployment={
                "deployed_by": deployed_by,
                "client_version": row.client_version,
                "tag": row.tag,
                "commit_info": row.commit_info,
                "rollback_version": wanted,
            },
        )

    async def rollover(self, app_id: str, deployed_by: str) -> Publication:
        """Make the live version live anew, as a version of its own: new containers take the place of those that run."""
        record = await self.get(app_id)
        row = await self._database.read(lambda connection: store.deployment(connection, app_id, record.version))
        if row is None:
            raise errors.WrongState(f"App '{record.title}' is not deployed. Deploy it with `modal deploy` first.")
        copies = await self._functions.copy_definitions(row.definition_ids)
        return await self._go_live(
            record,
            state=api_pb2.APP_STATE_DEPLOYED,
            name=record.name,
            tags=record.tags,
            function_ids=row.function_ids,
            class_ids=row.class_ids,
            definition_ids=copies,
            deployment={
                "deployed_by": deployed_by,
                "client_version": row.client_version,
                "tag": row.tag,
                "commit_info": row.commit_info,
                "rollback_version": None,
            },
        )

    async def set_tags(self, app_id: str, tags: dict[str, str]) -> None:
        record = await self.get(app_id)
        await self._database.write(lambda connection: store.update_app(connection, app_id, tags=tags))
        record.tags = tags

    async def deployments(self, app_id: str) -> list[Row[*tuple[Any, ...]]]:
        return await self._database.read(lambda connection: store.deployments_of(connection, app_id))

    async def stop(self, app_id: str, reason: str, grace_s: float = 0.0) -> None:
        """End an app, whatever its state. Safe to repeat. `grace_s`: for its containers; 0: what their functions give them."""
        record = self._live.get(app_id)
        if record is None:
            await self.row(app_id)
            return
        at = self._now()
        await self._database.write(lambda connection: store.stop_app(connection, app_id, api_pb2.APP_STATE_STOPPED, at, reason))
        if self._live.pop(app_id, None) is None:
            return
        self._layouts.pop(app_id, None)
        log.info("app_stopped", app_id=app_id, name=record.title, reason=reason)
        self._ending[app_id] = record
        try:
            if self.on_stop is not None:
                await self.on_stop(record, reason, grace_s)
        finally:
            del self._ending[app_id]
        self._functions.forget(app_id)

    async def disconnect(self, request: api_pb2.AppClientDisconnectRequest) -> None:
        """The client of a run has finished: an ephemeral app ends, a detached one as soon as it has nothing to do."""
        record = self._live.get(request.app_id)
        if record is None or record.state == api_pb2.APP_STATE_DEPLOYED:
            return
        record.heartbeat_at = 0.0
        if not record.is_ephemeral and self.is_busy(record.app_id):
            return
        reason = api_pb2.AppDisconnectReason.Name(request.reason).removeprefix("APP_DISCONNECT_REASON_").replace("_", " ").lower()
        await self.stop(request.app_id, f"its client disconnected ({reason})")

    async def stop_abandoned(self) -> int:
        """End the apps whose client is gone, detached ones once their work is done; returns how many."""
        limit = self._steady() - HEARTBEAT_TIMEOUT_S
        count = 0
        for record in [record for record in self._live.values() if record.heartbeat_at < limit]:
            if record.is_ephemeral:
                await self.stop(record.app_id, "its client went silent")
            elif record.state == api_pb2.APP_STATE_DETACHED and not self.is_busy(record.app_id):
                await self.stop(record.app_id, "its client is gone and its work is done")
            else:
                continue
            count += 1
        return count

    async def stop_all_in(self, environment_id: str) -> None:
        """End all apps of an environment."""
        for record in [record for record in self._live.values() if record.environment_id == environment_id]:
            await self.stop(record.app_id, "its environment was deleted", STOP_GRACE_S)

    def function_count(self, app_id: str) -> int:
        """How many functions and classes an app that runs has."""
        function_ids, class_ids = self._layouts.get(app_id, ({}, {}))
        return len([tag for tag in function_ids if not tag.endswith(".*")]) + len(class_ids)

    # ---- what an app consists of ----

    async def members(self, app_id: str) -> tuple[dict[str, str], dict[str, str]]:
        """Tag → id of its functions, and of its classes."""
        if (known := self._layouts.get(app_id)) is not None:
            return known
        row = await self._database.read(lambda connection: store.layout(connection, app_id))
        found = (dict(row.function_ids), dict(row.class_ids)) if row is not None else ({}, {})
        return self._layouts.setdefault(app_id, found)

    async def layout(self, app_id: str, dependencies: Sequence[str] = ()) -> api_pb2.AppLayout:
        """The app's objects as clients and containers want them; `dependencies` are ids that have to be listed too."""
        function_ids, class_ids = await self.members(app_id)
        layout = api_pb2.AppLayout(function_ids=function_ids, class_ids=class_ids)
        listed: set[str] = set()
        for function_id in function_ids.values():
            record = await self._functions.get(function_id)
            layout.objects.add(object_id=function_id, function_handle_metadata=record.handle)
            listed.add(function_id)
        for class_id in class_ids.values():
            layout.objects.add(object_id=class_id, class_handle_metadata=api_pb2.ClassHandleMetadata())
            listed.add(class_id)
        for object_id in dependencies:
            if object_id in listed:
                continue
            listed.add(object_id)
            item = layout.objects.add(object_id=object_id)
            if ids.has_prefix(object_id, ids.FUNCTION):
                item.function_handle_metadata.CopyFrom((await self._functions.get(object_id)).handle)
            elif ids.has_prefix(object_id, ids.CLASS):
                item.class_handle_metadata.CopyFrom(api_pb2.ClassHandleMetadata())
            elif ids.has_prefix(object_id, ids.VOLUME):
                item.volume_metadata.CopyFrom(await metadata_of(self._database, object_id))
        return layout

    async def find_function(self, app_name: str, tag: str, environment_name: str) -> str:
        """The id of a function by its app's name and its own. Raises NotFound."""
        record = await self.by_name(app_name, environment_name)
        function_ids, _ = await self.members(record.app_id)
        if tag not in function_ids:
            have = ", ".join(sorted(function_ids)) or "none"
            raise errors.NotFound(f"App '{app_name}' has no function '{tag}'. It has: {have}")
        return function_ids[tag]

    async def find_class(self, app_name: str, tag: str, environment_name: str) -> str:
        """The id of a class by its app's name and its own. Raises NotFound."""
        record = await self.by_name(app_name, environment_name)
        _, class_ids = await self.members(record.app_id)
        if tag not in class_ids:
            have = ", ".join(sorted(class_ids)) or "none"
            raise errors.NotFound(f"App '{app_name}' has no class '{tag}'. It has: {have}")
        return class_ids[tag]


def _record(row: Row[*tuple[Any, ...]], environment_name: str) -> AppRecord:
    return AppRecord(
        app_id=row.app_id,
        environment_id=row.environment_id,
        environment_name=environment_name,
        name=row.name or "",
        description=row.description,
        state=row.state,
        tags=dict(row.tags),
        created_at=row.created_at,
        heartbeat_at=row.heartbeat_at,
        client_version=row.client_version,
        version=row.version,
    )


def stopped(title: str, reason: str) -> str:
    """The exception of what was asked of an app and will not be done any more."""
    return f"App {title!r} was stopped: {reason}."
