"""Environments: the namespaces in which names of apps and objects live. The default one is always there.

All are kept in memory, since nearly every request names one; this class is the only one that changes them.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from pilotlight.control.replies import RecentReplies
from pilotlight.core import errors, ids
from pilotlight.core.names import check_environment_name
from pilotlight.store import environments as store
from pilotlight.store.database import Database

log = structlog.get_logger()

DEFAULT_NAME = "main"
MAX_ENVIRONMENTS = 1_000


@dataclass(frozen=True, slots=True)
class Environment:
    """A namespace. `builder_override` is None where the environment follows the platform's image builder version."""

    environment_id: str
    name: str
    web_suffix: str
    is_default: bool
    image_builder_version: str
    builder_override: str | None
    created_at: float


class Environments:
    """Use cases of environments. `ensure_default` comes before anything else.

    `before_delete` holds what must end before an environment's rows go: each is awaited with the environment's id.
    """

    def __init__(
        self,
        *,
        database: Database,
        workspace: str,
        image_builder_version: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._workspace = workspace
        self._builder_version = image_builder_version
        self._now = now
        self._by_name: dict[str, Environment] = {}
        self._deleted: RecentReplies[bool] = RecentReplies()
        self.before_delete: list[Callable[[str], Awaitable[None]]] = []
        self.on_rename: list[Callable[[Environment], None]] = []

    async def ensure_default(self) -> None:
        """Read all environments; make the default one at first start."""
        rows = await self._database.read(store.all_environments)
        for row in rows:
            self._remember(
                Environment(
                    row.environment_id,
                    row.name,
                    row.web_suffix,
                    bool(row.is_default),
                    row.image_builder_version or self._builder_version,
                    row.image_builder_version,
                    row.created_at,
                )
            )
        if not rows:
            await self._add(ids.new(ids.ENVIRONMENT), DEFAULT_NAME, web_suffix="", is_default=True)

    @property
    def default(self) -> Environment:
        return next(environment for environment in self._by_name.values() if environment.is_default)

    def resolve(self, name: str) -> Environment:
        """The environment of that name or id, the default one for an empty name; raises NotFound."""
        if not name:
            return self.default
        if name not in self._by_name:
            if ids.has_prefix(name, ids.ENVIRONMENT):
                return self.by_id(name)
            raise errors.NotFound(
                f"Environment '{name}' not found in workspace '{self._workspace}'. "
                f"Create it with `modal environment create {name}`, or see `modal environment list`."
            )
        return self._by_name[name]

    def by_id(self, environment_id: str) -> Environment:
        """The environment of that id; raises NotFound."""
        for environment in self._by_name.values():
            if environment.environment_id == environment_id:
                return environment
        raise errors.NotFound(
            f"Environment {environment_id} not found: it was deleted. `modal environment list` shows what there is."
        )

    def list(self) -> list[Environment]:
        """All environments, oldest first."""
        return sorted(self._by_name.values(), key=lambda environment: environment.created_at)

    async def create(self, name: str, idempotency_key: str = "", *, may_exist: bool = False) -> Environment:
        """Make an environment; raises AlreadyExists unless it may exist. Safe to repeat under one key."""
        check_environment_name(name)
        key = idempotency_key
        environment_id = ids.derived(ids.ENVIRONMENT, key, name) if key else ids.new(ids.ENVIRONMENT)
        if existing := self._by_name.get(name):
            if may_exist or existing.environment_id == environment_id:
                return existing
            raise errors.AlreadyExists(
                f"Environment '{name}' already exists in workspace '{self._workspace}'. Choose another name."
            )
        if len(self._by_name) >= MAX_ENVIRONMENTS:
            raise errors.OverLimit(f"There are {MAX_ENVIRONMENTS} environments, which is the limit. Delete one first.")
        return await self._add(environment_id, name, web_suffix=name, is_default=False)

    async def update(
        self, name: str, *, new_name: str | None = None, web_suffix: str | None = None, image_builder_version: str | None = None
    ) -> Environment:
        """Change what is not None; an empty builder version means the platform's. Raises NotFound, AlreadyExists."""
        # A repeated renaming finds the new name only.
        if name not in self._by_name and new_name in self._by_name:
            name = new_name or name
        old = self.resolve(name)
        override = old.builder_override if image_builder_version is None else (image_builder_version or None)
        new = replace(
            old,
            name=new_name or old.name,
            web_suffix=old.web_suffix if web_suffix is None else web_suffix,
            builder_override=override,
            image_builder_version=override or self._builder_version,
        )
        if new.name != old.name:
            check_environment_name(new.name)
            if new.name in self._by_name:
                raise errors.AlreadyExists(f"Environment '{new.name}' already exists. Choose another name.")
        taken = next((e.name for e in self._by_name.values() if e.web_suffix == new.web_suffix and e.name != old.name), None)
        if taken is not None:
            raise errors.AlreadyExists(f"The web suffix '{new.web_suffix}' is that of environment '{taken}'. Choose another.")
        values = {"name": new.name, "web_suffix": new.web_suffix, "image_builder_version": override}
        # Remembered before the commit, so that two changes at once see each other.
        del self._by_name[old.name]
        self._remember(new)
        await self._database.write(lambda connection: store.change(connection, new.environment_id, **values))
        for tell in self.on_rename if new.name != old.name else ():
            tell(new)
        return new

    async def set_default(self, name: str) -> None:
        """Make an environment the one that is meant where none is named; raises NotFound. Safe to repeat."""
        new = self.resolve(name)
        for environment in list(self._by_name.values()):
            self._remember(replace(environment, is_default=environment.environment_id == new.environment_id))
        await self._database.write(lambda connection: store.set_default(connection, new.environment_id))
        log.info("default_environment_set", environment=new.name)

    async def delete(self, name: str, request_key: str = "") -> None:
        """Remove an environment and all that lives in it; raises NotFound, WrongState for the default one.

        Safe to repeat under one key.
        """
        if self._deleted.get(request_key):
            return
        environment = self.resolve(name)
        if environment.is_default:
            raise errors.WrongState(
                f"Environment '{environment.name}' is the default one and can't be deleted. Delete what it holds instead: "
                "`modal app stop`, `modal secret delete`, `modal dict delete`, `modal queue delete`, `modal volume delete`; "
                "or make another one the default."
            )
        goes = await self._database.read(lambda connection: store.census(connection, environment.environment_id))
        log.info("environment_delete", environment=environment.name, **goes)
        for prepare in self.before_delete:
            await prepare(environment.environment_id)
        await self._database.write(lambda connection: store.remove(connection, environment.environment_id))
        self._by_name.pop(environment.name, None)
        self._deleted.keep(request_key, True)

    def _remember(self, environment: Environment) -> None:
        self._by_name[environment.name] = environment

    async def _add(self, environment_id: str, name: str, *, web_suffix: str, is_default: bool) -> Environment:
        created_at = self._now()
        environment = Environment(environment_id, name, web_suffix, is_default, self._builder_version, None, created_at)
        self._remember(environment)
        try:
            await self._database.write(
                lambda connection: store.add(
                    connection,
                    environment_id=environment_id,
                    name=name,
                    web_suffix=web_suffix,
                    is_default=int(is_default),
                    created_at=created_at,
                )
            )
        except BaseException:
            self._by_name.pop(name, None)
            raise
        return environment
