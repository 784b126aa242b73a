"""Functions, classes and their bound variants: what a program has defined, and which definition is live.

A function keeps its id across deployments; each FunctionCreate adds a definition, and AppPublish makes it the live one. Bound
functions (parameters of a class, options) follow the live definition of the function they were bound from.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from modal_proto import api_pb2
from sqlalchemy import Connection, Row

from pilotlight.control.bucket_mounts import check_buckets
from pilotlight.control.volume_mounts import checked_mounts, mounts_of
from pilotlight.control.web_definitions import Naming, follow_addresses, hand_out_addresses
from pilotlight.core import errors, ids
from pilotlight.core.gpus import wish as gpu_wish
from pilotlight.core.labels import Addresses
from pilotlight.core.retries import RetryPolicy
from pilotlight.core.schedules import Cron, Period, Schedule, check
from pilotlight.store import functions as store
from pilotlight.store.database import Database


@dataclass(slots=True, eq=False)
class FunctionRecord:
    """A function with its live definition, options applied. Renewed in place when a deployment changes it."""

    function_id: str
    app_id: str
    tag: str
    handle: api_pb2.FunctionHandleMetadata
    definition_id: str  # empty before the app is published
    definition: api_pb2.Function
    client_version: str
    parent_id: str | None = None
    params: bytes = b""
    options: bytes = b""
    alternatives: tuple[api_pb2.Resources, ...] = ()  # what it runs on where the definition's own can't be had, in this order


def handle_of(
    function_id: str, app_id: str, function: api_pb2.Function | api_pb2.FunctionPrecreateRequest, definition_id: str = ""
) -> api_pb2.FunctionHandleMetadata:
    """What a client needs to know to call the function."""
    handle = api_pb2.FunctionHandleMetadata(
        function_name=function.function_name,
        function_type=function.function_type,
        definition_id=definition_id,
        app_id=app_id,
        function_schema=function.function_schema if function.HasField("function_schema") else None,
        supported_input_formats=function.supported_input_formats,
        supported_output_formats=function.supported_output_formats,
    )
    if isinstance(function, api_pb2.Function) and function.HasField("class_parameter_info"):
        handle.class_parameter_info.CopyFrom(function.class_parameter_info)
    for name, method in function.method_definitions.items():
        handle.method_handle_metadata[name].CopyFrom(
            api_pb2.FunctionHandleMetadata(
                function_name=method.function_name,
                function_type=method.function_type,
                is_method=True,
                use_method_name=name,
                app_id=app_id,
                definition_id=definition_id,
                function_schema=method.function_schema if method.HasField("function_schema") else None,
                supported_input_formats=method.supported_input_formats,
                supported_output_formats=method.supported_output_formats,
            )
        )
    if isinstance(function, api_pb2.Function):
        hand_out_addresses(function, handle)
    return handle


_DATA_FIELDS = [
    field.name
    for field in api_pb2.FunctionData.DESCRIPTOR.fields
    if field.name in api_pb2.Function.DESCRIPTOR.fields_by_name and field.name != "ranked_functions"
]


def data_of(function: api_pb2.Function) -> api_pb2.FunctionData:
    """The shape in which FunctionCreate and FunctionGet answer: the definition, ranked first and only."""
    data = api_pb2.FunctionData(ranked_functions=[api_pb2.FunctionData.RankedFunction(rank=0, function=function)])
    for name in _DATA_FIELDS:
        descriptor = api_pb2.Function.DESCRIPTOR.fields_by_name[name]
        if descriptor.is_repeated:
            getattr(data, name).MergeFrom(getattr(function, name))
        elif descriptor.message_type is not None:
            if function.HasField(name):  # pyright: ignore[reportArgumentType]
                getattr(data, name).CopyFrom(getattr(function, name))
        else:
            setattr(data, name, getattr(function, name))
    return data


def highest_ranked(request: api_pb2.FunctionCreateRequest) -> api_pb2.Function:
    """The definition that a FunctionCreate asks for, wherever it put it."""
    if not request.HasField("function_data"):
        return request.function
    data = request.function_data
    if not data.ranked_functions:
        raise errors.InvalidInput("The function's definition is empty: FunctionCreate carries no ranked function.")
    function = api_pb2.Function()
    function.CopyFrom(min(data.ranked_functions, key=lambda ranked: ranked.rank).function)
    for name in _DATA_FIELDS:
        descriptor = api_pb2.FunctionData.DESCRIPTOR.fields_by_name[name]
        if descriptor.is_repeated:
            if getattr(data, name):
                function.ClearField(name)  # pyright: ignore[reportArgumentType]
                getattr(function, name).MergeFrom(getattr(data, name))
        elif descriptor.message_type is not None:
            if data.HasField(name):  # pyright: ignore[reportArgumentType]
                getattr(function, name).CopyFrom(getattr(data, name))
        elif getattr(data, name):
            setattr(function, name, getattr(data, name))
    return function


def alternatives_of(request: api_pb2.FunctionCreateRequest) -> list[api_pb2.Resources]:
    """The resources of those that are ranked below the highest (gpu=[…] names several), the more welcome first."""
    ranked = sorted(request.function_data.ranked_functions, key=lambda ranked: ranked.rank)
    return [entry.function.resources for entry in ranked[1:]]


def check_gpus(name: str, resources: Iterable[api_pb2.Resources]) -> None:
    """Raise InvalidInput for GPUs that no container can have."""
    for wanted in resources:
        try:
            gpu_wish(wanted.gpu_config.gpu_type, wanted.gpu_config.count)
        except errors.InvalidInput as error:
            raise errors.InvalidInput(f"Function {name!r}: {error}") from error


def _packed(alternatives: Sequence[api_pb2.Resources]) -> bytes | None:
    """As a definition's row has them."""
    data = api_pb2.FunctionData()
    for rank, resources in enumerate(alternatives, 1):
        data.ranked_functions.add(rank=rank).function.resources.CopyFrom(resources)
    return data.SerializeToString() if alternatives else None


def _unpacked(data: bytes | None) -> tuple[api_pb2.Resources, ...]:
    return tuple(entry.function.resources for entry in api_pb2.FunctionData.FromString(data or b"").ranked_functions)


def schedule_of(request: api_pb2.FunctionCreateRequest, function: api_pb2.Function) -> api_pb2.Schedule | None:
    """When the function is to run by itself: older clients say it beside the definition, newer ones in it."""
    if request.HasField("schedule"):
        return request.schedule
    return function.schedule if function.HasField("schedule") else None


def schedule_from(message: bytes) -> Schedule | None:
    """A schedule from its protocol form; None for an empty one."""
    schedule = api_pb2.Schedule.FromString(message)
    match schedule.WhichOneof("schedule_oneof"):
        case "cron":
            return Cron(schedule.cron.cron_string, schedule.cron.timezone or "UTC")
        case "period":
            period = schedule.period
            try:
                rest = timedelta(
                    weeks=period.weeks, days=period.days, hours=period.hours, minutes=period.minutes, seconds=period.seconds
                )
            except (OverflowError, ValueError):  # more than there are days, or no number
                rest = timedelta.max
            return Period(period.years * 12 + period.months, rest)
        case _:
            return None


def check_schedule(function: api_pb2.Function, message: api_pb2.Schedule | None) -> None:
    """Raise InvalidInput for a schedule that can't be followed, or on a function that needs arguments."""
    schedule = schedule_from(message.SerializeToString()) if message is not None else None
    if schedule is None:
        return
    check(schedule, function.function_name)
    needed = [argument.name for argument in function.function_schema.arguments if not argument.has_default]
    if needed:
        raise errors.InvalidInput(
            f"Function {function.function_name!r} has a schedule, so it must be callable without arguments; "
            f"it needs {', '.join(needed)}. Give them defaults, or take the schedule away."
        )


_OPTION_FIELDS = {
    "concurrency_limit": "concurrency_limit",
    "timeout_secs": "timeout_secs",
    "task_idle_timeout_secs": "task_idle_timeout_secs",
    "warm_pool_size": "warm_pool_size",
    "buffer_containers": "_experimental_buffer_containers",
    "target_concurrent_inputs": "target_concurrent_inputs",
    "max_concurrent_inputs": "max_concurrent_inputs",
    "batch_max_size": "batch_max_size",
    "cloud_provider_str": "cloud_provider_str",
    "batch_linger_ms": "batch_linger_ms",
}
_AUTOSCALER_FIELDS = {
    "concurrency_limit": "max_containers",
    "task_idle_timeout_secs": "scaledown_window",
    "warm_pool_size": "min_containers",
    "buffer_containers": "buffer_containers",
}


def with_options(function: api_pb2.Function, options: api_pb2.FunctionOptions) -> api_pb2.Function:
    """The definition with what `with_options`, `with_concurrency` and `with_batching` changed."""
    changed = api_pb2.Function()
    changed.CopyFrom(function)
    for name, target in _OPTION_FIELDS.items():
        if options.HasField(name):  # pyright: ignore[reportArgumentType]
            setattr(changed, target, getattr(options, name))
            if name in _AUTOSCALER_FIELDS:
                setattr(changed.autoscaler_settings, _AUTOSCALER_FIELDS[name], getattr(options, name))
    for name in ("resources", "retry_policy", "scheduler_placement"):
        if options.HasField(name):
            getattr(changed, name).CopyFrom(getattr(options, name))
    replaced = {
        "secret_ids": options.replace_secret_ids,
        "volume_mounts": options.replace_volume_mounts,
        "cloud_bucket_mounts": options.replace_cloud_bucket_mounts,
    }
    for name, replace in replaced.items():
        if replace:
            changed.ClearField(name)  # pyright: ignore[reportArgumentType]
        getattr(changed, name).extend(getattr(options, name))
    changed.mount_ids.extend(options.mount_ids)
    return changed


def refuse_unbuilt(function: api_pb2.Function) -> None:
    """Raise NotBuilt for what a definition asks for and this platform does not have yet."""
    lacking = {
        "sticky sessions (@modal.sessioned)": function.is_sessioned,
        "flash containers (modal.experimental.http_server)": function.HasField("http_config") and not function.is_server,
        "proxies (leave proxy= out: containers of a machine all leave by its own address)": bool(function.proxy_id),
        "clusters (@clustered)": bool(function._experimental_group_size),  # pyright: ignore[reportPrivateUsage]
        "building an image by running a function (Image.run_function)": function.is_builder_function,
    }
    for feature, asked in lacking.items():
        if asked:
            raise errors.NotBuilt(
                f"Function {function.function_name!r} uses {feature}, which is not built yet in Pilotlight. "
                "docs/compatibility.md lists what there is."
            )


def _options_of(request: api_pb2.FunctionBindParamsRequest) -> bytes:
    return request.function_options.SerializeToString(deterministic=True) if request.HasField("function_options") else b""


def retry_policy_of(function: api_pb2.Function) -> RetryPolicy:
    """The user's policy from its protocol form (milliseconds)."""
    policy = function.retry_policy
    return RetryPolicy(
        retries=policy.retries,
        initial_delay_s=policy.initial_delay_ms / 1000,
        backoff_coefficient=policy.backoff_coefficient or 1.0,
        max_delay_s=(policy.max_delay_ms or 60_000) / 1000,
    )


class Functions:
    """All functions, with the live ones cached: a look-up on the way of a call costs a dictionary access."""

    def __init__(self, database: Database, addresses: Addresses, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._addresses = addresses
        self._now = now
        self._records: dict[str, FunctionRecord] = {}

    async def get(self, function_id: str) -> FunctionRecord:
        """The function with its live definition. Raises NotFound, or WrongState while its app is not published."""
        if (record := self._records.get(function_id)) is not None:
            return record
        record = await self._load(function_id)
        return self._records.setdefault(function_id, record)

    async def precreate(
        self, request: api_pb2.FunctionPrecreateRequest, key: str, naming: Naming | None = None
    ) -> tuple[str, api_pb2.FunctionHandleMetadata]:
        """Give a function its id before it is defined, so that others may refer to it."""
        function_id = request.existing_function_id or ids.derived(ids.FUNCTION, request.app_id, request.function_name, key)
        handle = handle_of(function_id, request.app_id, request)
        if naming is not None:
            naming.name_early(request, handle)
        row = self._row(function_id, request.app_id, request.function_name, handle)
        await self._database.write(lambda connection: store.insert_function(connection, row))
        return function_id, handle

    async def create(
        self,
        request: api_pb2.FunctionCreateRequest,
        client_version: str,
        key: str,
        *,
        for_run: bool = False,
        naming: Naming | None = None,
    ) -> tuple[str, api_pb2.Function, api_pb2.FunctionHandleMetadata]:
        """Add a definition to a function. It becomes live with the app's next publication.

        Schedules do nothing in a mere run (`for_run`), as upstream.
        """
        function = highest_ranked(request)
        schedule = schedule_of(request, function)
        alternatives = alternatives_of(request)
        refuse_unbuilt(function)
        checked_mounts(mounts_of(function), f"Function {function.function_name!r}")
        check_buckets(function, f"Function {function.function_name!r}")
        check_gpus(function.function_name, (function.resources, *alternatives))
        check_schedule(function, None if for_run else schedule)
        function_id = request.existing_function_id or ids.derived(ids.FUNCTION, request.app_id, function.function_name, key)
        definition_id = ids.derived("de", function_id, key)
        if naming is not None:
            naming.name(function)
        handle = handle_of(function_id, request.app_id, function, definition_id)
        row = self._row(function_id, request.app_id, function.function_name, handle)
        definition = {
            "definition_id": definition_id,
            "function_id": function_id,
            "function": function.SerializeToString(),
            "alternatives": _packed(alternatives),
            "schedule": schedule.SerializeToString() if schedule else None,
            "client_version": client_version,
            "created_at": self._now(),
        }

        def apply(connection: Connection) -> None:
            store.insert_function(connection, row)
            store.set_handle(connection, function_id, row["handle"])
            store.insert_definition(connection, definition)

        await self._database.write(apply)
        return function_id, function, handle

    async def bind(self, request: api_pb2.FunctionBindParamsRequest) -> tuple[str, api_pb2.FunctionHandleMetadata]:
        """The function of one parameter set and option set: always the same id for the same wish."""
        base = await self.get(request.function_id)
        changed = with_options(base.definition, request.function_options)
        checked_mounts(mounts_of(changed), f"Function {base.tag!r}")
        check_buckets(changed, f"Function {base.tag!r}")
        check_gpus(base.tag, [changed.resources])
        options = _options_of(request)
        bound_id = self.bound_id(base, request)
        handle = api_pb2.FunctionHandleMetadata()
        handle.CopyFrom(base.handle)
        row = self._row(bound_id, base.app_id, base.tag, handle) | {
            "parent_id": base.function_id,
            "params": request.serialized_params,
            "options": options,
        }
        if bound_id not in self._records:
            await self._database.write(lambda connection: store.insert_function(connection, row))
        return bound_id, handle

    def bound_id(self, base: FunctionRecord, request: api_pb2.FunctionBindParamsRequest) -> str:
        """What `bind` calls the function of these parameters and options."""
        return ids.derived(ids.FUNCTION, base.function_id, request.serialized_params.hex(), _options_of(request).hex())

    async def create_class(self, app_id: str, existing_class_id: str, key: str) -> str:
        class_id = existing_class_id or ids.derived(ids.CLASS, app_id, key)
        row = {"class_id": class_id, "app_id": app_id, "created_at": self._now()}
        await self._database.write(lambda connection: store.insert_class(connection, row))
        return class_id

    async def newest(self, function_id: str) -> api_pb2.Function:
        """The definition that was created last, whether it is live or not."""
        row = await self._database.read(lambda connection: store.newest_definition(connection, function_id))
        if row is None:
            raise errors.NotFound(f"There is no function {function_id}, or it was never defined.")
        return api_pb2.Function.FromString(row.function)

    async def copy_definitions(self, definition_ids: dict[str, str]) -> dict[str, str]:
        """The same again under new ids (by function)."""
        copies = {function_id: ids.new("de") for function_id, definition_id in definition_ids.items() if definition_id}
        pairs = [(definition_ids[function_id], copy) for function_id, copy in copies.items()]
        at = self._now()
        await self._database.write(lambda connection: store.copy_definitions(connection, pairs, at))
        return copies

    async def refresh(self, app_id: str) -> list[tuple[FunctionRecord, str]]:
        """Re-read what is cached of an app after a publication; returns (record, definition id before) of those that changed."""
        changed: list[tuple[FunctionRecord, str]] = []
        for record in [record for record in self._records.values() if record.app_id == app_id]:
            fresh = await self._load(record.function_id)
            before = record.definition_id
            record.handle, record.tag, record.client_version = fresh.handle, fresh.tag, fresh.client_version
            record.definition_id, record.definition = fresh.definition_id, fresh.definition
            record.alternatives = fresh.alternatives
            if before != record.definition_id:
                changed.append((record, before))
        return changed

    async def as_defined(self, record: FunctionRecord, definition_id: str) -> api_pb2.Function:
        """What a container runs that was started with this definition, though a newer one may be live."""
        if definition_id == record.definition_id:
            return record.definition
        row = await self._database.read(lambda connection: store.definition(connection, definition_id))
        if row is None:
            return record.definition
        definition = api_pb2.Function.FromString(row.function)
        return with_options(definition, api_pb2.FunctionOptions.FromString(record.options)) if record.options else definition

    def find(self, function_id: str) -> FunctionRecord | None:
        """A function that is in use."""
        return self._records.get(function_id)

    def forget_one(self, function_id: str) -> None:
        """Drop what is cached of a function that nobody uses."""
        self._records.pop(function_id, None)

    async def remove_unused(self, function_ids: Sequence[str]) -> None:
        """Forget bound functions that nobody uses, and their rows unless a call, a container or a setting names them."""
        for function_id in function_ids:
            self.forget_one(function_id)
        if function_ids:
            await self._database.write(lambda connection: store.remove_unused(connection, function_ids))

    def forget(self, app_id: str) -> None:
        """Drop what is cached of an app that has ended."""
        for function_id in [record.function_id for record in self._records.values() if record.app_id == app_id]:
            del self._records[function_id]

    def _row(self, function_id: str, app_id: str, tag: str, handle: api_pb2.FunctionHandleMetadata) -> dict[str, Any]:
        return {
            "function_id": function_id,
            "app_id": app_id,
            "tag": tag,
            "handle": handle.SerializeToString(),
            "created_at": self._now(),
        }

    async def _load(self, function_id: str) -> FunctionRecord:
        def query(connection: Connection) -> tuple[Row[*tuple[Any, ...]] | None, Row[*tuple[Any, ...]] | None]:
            row = store.function_with_definition(connection, function_id)
            parent = store.function_with_definition(connection, row.parent_id) if row is not None and row.parent_id else row
            return row, parent

        row, source = await self._database.read(query)
        if row is None or source is None:
            raise errors.NotFound(f"There is no function {function_id}. It may have been removed by a newer deployment of its app.")
        if source.definition_id is None:
            raise errors.WrongState(
                f"Function {row.tag!r} is not published yet: its app is still being created. Call it once that is done."
            )
        definition = api_pb2.Function.FromString(source.function)
        definition_id = source.definition_id
        handle = api_pb2.FunctionHandleMetadata.FromString(source.handle)
        follow_addresses(definition, handle, self._addresses)
        alternatives = _unpacked(source.alternatives)
        if row.options:
            options = api_pb2.FunctionOptions.FromString(row.options)
            definition = with_options(definition, options)
            alternatives = () if options.HasField("resources") else alternatives
        return FunctionRecord(
            function_id=row.function_id,
            app_id=row.app_id,
            tag=row.tag,
            handle=handle,
            definition_id=definition_id,
            definition=definition,
            client_version=source.client_version,
            parent_id=row.parent_id,
            params=row.params or b"",
            options=row.options or b"",
            alternatives=alternatives,
        )
