"""What each container may touch: its environment, what its function was given, and what it has found by name.

What a container has found survives a restart of the server, as the container does. A check reads memory only, unless an object is
named for the first time.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence

from modal_proto import api_pb2

from pilotlight.control.environments import Environment, Environments
from pilotlight.control.live import LiveTask
from pilotlight.control.owners import Owners
from pilotlight.control.tasks import Tasks
from pilotlight.control.volume_mounts import mounts_of
from pilotlight.core import errors
from pilotlight.core.permissions import Container, Kind, Named, Names, Rule, Scope, check
from pilotlight.store import found as store
from pilotlight.store.database import Database

MAX_FOUND = 10_000  # objects of other environments and apps of its own making that one container may come to use; the oldest go
_HARMLESS_CREATION = (api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED, api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING)


class Permissions:
    """Decides for one container at a time. Lives on the event loop's thread."""

    def __init__(
        self, *, found_database: Database, tasks: Tasks, environments: Environments, owners: Owners, may_leave_environment: bool
    ) -> None:
        self._database = found_database
        self._tasks = tasks
        self._environments = environments
        self._owners = owners
        self._may_leave = may_leave_environment
        self._found: dict[str, OrderedDict[str, None]] = {}  # by task
        self._containers: dict[str, Container] = {}

    async def restore(self) -> None:
        """Read what the containers that still run have found, and forget the others."""
        gone: set[str] = set()
        for task_id, object_id in await self._database.read(store.all_of):
            if self._tasks.get(task_id) is None:
                gone.add(task_id)
            else:
                self._found.setdefault(task_id, OrderedDict())[object_id] = None
        if gone:
            await self._database.write(lambda connection: store.forget(connection, gone))

    def task_ended(self, task_id: str) -> None:
        """Nobody acts for this container any more."""
        self._containers.pop(task_id, None)
        if self._found.pop(task_id, None) is not None:
            self._database.write_unattended(lambda connection: store.forget(connection, [task_id]), "that a container has ended")

    async def container(self, task_id: str) -> Container:
        """Who asks. Raises NotAllowed where there is no such container any more."""
        if (known := self._containers.get(task_id)) is not None:
            return known
        task = self._tasks.get(task_id)
        owner = await self._owners.of(Kind.APP, task.pool.function.app_id) if task is not None else None
        if task is None or self._tasks.get(task_id) is not task:  # what an ended one finds nobody would forget
            raise errors.NotAllowed(f"Container {task_id} has ended and may not call.")
        function = task.pool.function
        container = self._containers[task_id] = Container(
            task_id=task_id,
            function=function.tag,
            function_id=function.function_id,
            app_id=function.app_id,
            environment_id=owner.environment_id if owner is not None else "",
            is_restricted=task.definition.untrusted,
            given=_given(task),
            found=self._found.setdefault(task_id, OrderedDict()),
        )
        return container

    def own_environment(self, container: Container) -> Environment:
        """That in which a container runs. Raises NotFound while it is being deleted."""
        return self._environments.by_id(container.environment_id)

    def holds(self, task_id: str, input_id: str) -> bool:
        """Whether a container works on this input."""
        task = self._tasks.get(task_id)
        return task is not None and input_id in task.held

    async def check(self, name: str, rule: Rule, container: Container, objects: Sequence[tuple[Kind, str, bool]]) -> None:
        """Raise NotAllowed if an RPC names what this container may not touch: (kind, id, whether it would be changed)."""
        for kind, object_id, is_changed in objects:
            owner = await self._owners.of(kind, object_id)
            if owner is not None:  # the use case says best that there is nothing of that id
                check(name, rule, container, Named(kind, object_id, owner, rule.changes or is_changed))

    def enters(self, name: str, rule: Rule, container: Container, environment_name: str, creation: int) -> bool:
        """Whether a request names another environment than its container's; raises NotAllowed if it may not.

        `creation` is the modal.client.ObjectCreationType of the request, 0 where it has none.
        """
        named = self._environments.resolve(environment_name)
        if named.environment_id == container.environment_id or rule.scope is Scope.OPEN:
            return False
        if rule.names is not Names.ANY or creation not in _HARMLESS_CREATION:
            raise errors.NotAllowed(
                f"Container {container.task_id} runs in environment '{self.own_environment(container).name}' and may only look up "
                f"objects in another ('{named.name}') to use them, not list, make or change them there ({name}). Do that from "
                "outside, with a token."
            )
        if not self._may_leave:
            raise errors.NotAllowed(
                "Containers of this platform use what is in their own environment only (PILOTLIGHT_CONTAINER_REACH is "
                f"'environment'), and container {container.task_id} names environment '{named.name}' ({name})."
            )
        return True

    async def find(self, container: Container, object_ids: Collection[str]) -> None:
        """A container has looked these up by name, or made them: from now on it may use them. Raises DiskFull."""
        found = self._found.get(container.task_id)
        if found is None or all(object_id in found for object_id in object_ids):
            return
        await self._database.write(lambda connection: store.add(connection, container.task_id, object_ids))
        for object_id in object_ids:
            found[object_id] = None
        while len(found) > MAX_FOUND:
            found.popitem(last=False)


def _given(task: LiveTask) -> frozenset[str]:
    """The ids in the definition of a container's function."""
    function = task.definition
    return frozenset(
        [
            *(dependency.object_id for dependency in function.object_dependencies),
            *function.secret_ids,
            *(mount.volume_id for mount in mounts_of(function)),
            *(mount.shared_volume_id for mount in function.shared_volume_mounts),
            *(bucket.credentials_secret_id for bucket in function.cloud_bucket_mounts),
        ]
    )
