"""By which settings the containers of a function are scaled: those of its definition, and what was changed since its deployment.

Invariant: a change holds for the definition that was live when it was made; the next deployment has its own settings again.
"""

import time
from collections.abc import Callable

import structlog
from modal_proto import api_pb2

from pilotlight.control.apps import AppRecord, Apps
from pilotlight.control.functions import FunctionRecord, Functions
from pilotlight.control.pools import Pools
from pilotlight.core import autoscaling, errors, scaling
from pilotlight.store import autoscalers as store
from pilotlight.store.database import Database

log = structlog.get_logger()

Settings = api_pb2.AutoscalerSettings
Configuration = api_pb2.AutoscalerConfiguration
CHANGEABLE = ("min_containers", "max_containers", "buffer_containers", "scaleup_window", "scaledown_window")


def static_settings(function: api_pb2.Function) -> Settings:
    """What a definition says, whichever of its fields its client knew."""
    chosen = function.autoscaler_settings
    older = {
        "min_containers": function.warm_pool_size,
        "max_containers": function.concurrency_limit,
        "buffer_containers": function._experimental_buffer_containers,  # pyright: ignore[reportPrivateUsage]
        "scaleup_window": 0,
        "scaledown_window": function.task_idle_timeout_secs,
    }
    settings = Settings(**{name: getattr(chosen, name) if chosen.HasField(name) else older[name] for name in CHANGEABLE})  # pyright: ignore[reportArgumentType]
    settings.scaledown_window = settings.scaledown_window or scaling.DEFAULT_SCALEDOWN_WINDOW_S
    return settings


class Autoscalers:
    """The settings of all functions. Lives on the event loop's thread."""

    def __init__(
        self, *, database: Database, apps: Apps, functions: Functions, pools: Pools, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._apps = apps
        self._functions = functions
        self._pools = pools
        self._now = now
        self._changes: dict[str, tuple[str, Configuration]] = {}  # by function: the definition that was changed, and how
        self._settings: dict[str, tuple[str, Settings]] = {}  # by function: the definition, and what holds for it

    async def restore(self) -> None:
        """Read what was changed, and have the containers started that are to be there without a call."""
        for row in await self._database.read(store.all_autoscalers):
            self._changes[row.function_id] = (row.definition_id, Configuration.FromString(row.configuration))
        for app in self._apps.all():
            await self.keep_warm(app)
        for function_id in self._changes:
            try:
                record = await self._functions.get(function_id)
            except errors.PilotlightError as error:
                log.debug("autoscaler_of_nothing", function_id=function_id, error=str(error))
                continue
            await self._warm(record)
        for app in self._apps.all():
            await self._forget_older(app.app_id)

    async def keep_warm(self, app: AppRecord) -> None:
        """After a publication: what was changed before it is over, and what is to be there without a call is started."""
        await self._forget_older(app.app_id)
        function_ids, _ = await self._apps.members(app.app_id)
        for function_id in function_ids.values():
            await self._warm(await self._functions.get(function_id))

    async def _forget_older(self, app_id: str) -> None:
        """Changes of definitions that are live no more do not come back with a rollback."""
        older: list[str] = []
        for function_id, (definition_id, _) in self._changes.items():
            record = self._functions.find(function_id)
            if record is not None and record.app_id == app_id and record.definition_id != definition_id:
                older.append(function_id)
        if older:
            await self._database.write(lambda connection: store.remove(connection, older))
        for function_id in older:
            self._changes.pop(function_id, None)

    async def _warm(self, record: FunctionRecord) -> None:
        unbound = record.definition.class_parameter_info.schema and record.parent_id is None  # a container needs parameters
        if self.settings_of(record).min_containers and not unbound and self._apps.is_live(record.app_id):
            self._pools.touch(await self._pools.of_function(record.function_id))

    def settings_of(self, record: FunctionRecord) -> Settings:
        """By what a function is scaled now; each field that can be changed is set. 0 containers at most: as many as it takes.

        The same message each time, not to be changed.
        """
        known = self._settings.get(record.function_id)
        if known is not None and known[0] == record.definition_id:
            return known[1]
        settings = static_settings(record.definition)
        definition_id, configuration = self._changes.get(record.function_id, ("", None))
        if configuration is not None and definition_id == record.definition_id:
            settings.MergeFrom(configuration.override_settings)
        self._settings[record.function_id] = (record.definition_id, settings)
        return settings

    def forget(self, function_id: str) -> None:
        """Drop what is cached of a function that nobody uses."""
        self._settings.pop(function_id, None)

    async def configuration(self, function_id: str) -> Configuration:
        """All there is to know: the settings in force, whence they come, and who changed them when."""
        record = await self._functions.get(function_id)
        configuration = Configuration(
            settings=self.settings_of(record),
            static_settings=static_settings(record.definition),
            default_settings=static_settings(api_pb2.Function()),
        )
        definition_id, changed = self._changes.get(function_id, ("", None))
        if changed is not None and definition_id == record.definition_id:
            configuration.MergeFrom(changed)
        return configuration

    async def update(self, function_id: str, wish: Settings, token_id: str, token_name: str) -> Settings:
        """Change the fields that are set, until the next deployment. Safe to repeat. Raises InvalidInput."""
        pool = await self._pools.taking_work(function_id)
        record = pool.function
        _refuse_unknown(record, wish)
        definition_id, before = self._changes.get(function_id, ("", Configuration()))
        changed = Configuration()
        if definition_id == record.definition_id:
            changed.CopyFrom(before)
        changed.override_settings.MergeFrom(wish)
        for field, _ in wish.ListFields():
            event = changed.override_events[field.name]
            event.user_id, event.requested_by = token_id, token_name
            event.timestamp = self._now()
        after = static_settings(record.definition)
        after.MergeFrom(changed.override_settings)
        window_s = wish.scaledown_window if wish.HasField("scaledown_window") else None
        bounds = autoscaling.Bounds(after.min_containers, after.max_containers, after.buffer_containers, window_s)
        autoscaling.check(record.tag, bounds)
        row = (function_id, record.definition_id, changed.SerializeToString())
        await self._database.write(lambda connection: store.set_autoscaler(connection, *row))
        self._changes[function_id] = (record.definition_id, changed)
        self._settings.pop(function_id, None)
        self._pools.touch(pool)
        log.info("autoscaler_changed", function_id=function_id, by=token_name, settings=str(wish).replace("\n", " "))
        return after


def _refuse_unknown(record: FunctionRecord, wish: Settings) -> None:
    """Settings that nothing here would follow are refused, not kept."""
    unknown = [field.name for field, _ in wish.ListFields() if field.name not in CHANGEABLE]
    if unknown:
        raise errors.NotBuilt(
            f"Changing {', '.join(unknown)} of {record.tag!r} while it is deployed is not built yet in Pilotlight. Deploy it anew."
        )
