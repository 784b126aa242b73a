"""What a container may ask of the platform: one rule for each RPC. What has no rule is refused.

Whoever comes from outside has a token, and may do everything; these rules are for containers alone. The border is the
environment: a container uses and changes what is in its own, and uses what the author of its function has given it from elsewhere
(volumes, secrets, dicts … of its definition). Beyond that it may look up objects of other environments by their names, and then use
what it found. An id alone opens nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

from pilotlight.core import errors, ids


class Scope(Enum):
    """What an RPC is about."""

    OPEN = auto()  # nobody's in particular, or what has a key of its own: content by its hash, a blob by its random id
    TASK = auto()  # the container that asks, and the calls of its own function
    LOGS = auto()  # the output of an app: the container's own, or one that it has made
    OBJECTS = auto()  # what lies in environments
    PERSON = auto()  # the workspace, its environments and its credentials: only for who has a token


class Names(Enum):
    """Which environment a request may name."""

    OWN = auto()
    ANY = auto()  # to look something up there by its name


@dataclass(frozen=True, slots=True)
class Rule:
    """What a container may do by one RPC."""

    scope: Scope
    names: Names = Names.OWN
    changes: bool = False  # it defines, renames or deletes: what was given or found from elsewhere is not the container's to change
    for_restricted: bool = False  # a container of a restricted function (`restrict_modal_access=True`) needs it for its inputs


class Kind(Enum):
    """Of the object that a field of a request names; its value is what people call it."""

    APP = "App"
    FUNCTION = "Function"
    CLASS = "Class"
    CALL = "Function call"
    TASK = "Container"
    SECRET = "Secret"
    DICT = "Dict"
    QUEUE = "Queue"
    VOLUME = "Volume"
    FILE_SYSTEM = "Network file system"


# The fields of requests that name objects, wherever in a request they stand; of a map from names to ids, its values.
FIELDS = {
    "app_id": Kind.APP,
    "function_id": Kind.FUNCTION,
    "existing_function_id": Kind.FUNCTION,
    "parametrized_function_id": Kind.FUNCTION,
    "function_ids": Kind.FUNCTION,
    "class_id": Kind.CLASS,
    "existing_class_id": Kind.CLASS,
    "class_ids": Kind.CLASS,
    "function_call_id": Kind.CALL,
    "task_id": Kind.TASK,
    "container_id": Kind.TASK,
    "secret_id": Kind.SECRET,
    "secret_ids": Kind.SECRET,
    "credentials_secret_id": Kind.SECRET,
    "dict_id": Kind.DICT,
    "queue_id": Kind.QUEUE,
    "volume_id": Kind.VOLUME,
    "shared_volume_id": Kind.FILE_SYSTEM,
}
KEYS = {"definition_ids": Kind.FUNCTION}  # maps whose keys name objects
ANY_KIND = "object_id"  # a field that names an object of any kind
_KINDS = {
    ids.APP: Kind.APP,
    ids.FUNCTION: Kind.FUNCTION,
    ids.CLASS: Kind.CLASS,
    ids.CALL: Kind.CALL,
    ids.TASK: Kind.TASK,
    ids.SECRET: Kind.SECRET,
    ids.DICT: Kind.DICT,
    ids.QUEUE: Kind.QUEUE,
    ids.VOLUME: Kind.VOLUME,
    ids.NETWORK_FILE_SYSTEM: Kind.FILE_SYSTEM,
}
# Whatever else the request may use, these are the things that it changes or adds to.
CHANGED = frozenset({"existing_function_id", "existing_class_id", "function_ids", "class_ids", "definition_ids"})
# Ids that open nothing by themselves.
HARMLESS = {
    "args_blob_id": "the random id of a blob is its key",
    "blob_id": "the random id of a blob is its key",
    "data_blob_id": "the random id of a blob is its key",
    "image_id": "images belong to the whole workspace; the same definition has the same id",
    "existing_image_id": "images belong to the whole workspace",
    "mount_id": "a mount's id is made of its content",
    "mount_ids": "a mount's id is made of its content",
    "context_mount_id": "a mount's id is made of its content",
    "input_id": "a filter among the output of an app that may be read",
    "parent_input_id": "dropped where the container does not hold it",
    "build_function_id": "not built",
    "base_function_id": "part of a description",
    "checkpoint_id": "not built",
    "original_task_id": "not built",
    "client_id": "not used",
    "definition_id": "part of a description",
    "last_entry_id": "a cursor",
    "proxy_id": "not built",
    "sandbox_id": "not built",
    "worker_id": "not used",
}

_OPEN = Rule(Scope.OPEN)
_OPEN_TO_ALL = Rule(Scope.OPEN, for_restricted=True)
_OF_ITSELF = Rule(Scope.TASK)
_OF_ITSELF_TO_ALL = Rule(Scope.TASK, for_restricted=True)
_LOGS = Rule(Scope.LOGS)
_USES = Rule(Scope.OBJECTS)
_CHANGES = Rule(Scope.OBJECTS, changes=True)
_LOOKS_UP = Rule(Scope.OBJECTS, names=Names.ANY)
_MOUNTED = Rule(Scope.OBJECTS, for_restricted=True)  # the server asks further that the volume is mounted there
_PERSON = Rule(Scope.PERSON)


def _table(*groups: tuple[Rule, str]) -> dict[str, Rule]:
    table: dict[str, Rule] = {}
    for rule, names in groups:
        for name in names.split():
            assert name not in table, f"{name} has two rules"
            table[name] = rule
    return table


# All that the server answers. What the node's gateway answers by itself never gets here: it is about the container itself.
RULES = _table(
    (_OPEN_TO_ALL, "ClientHello AuthTokenGet BlobCreate BlobGet FunctionBlobGet"),
    (_OPEN, "MountBatchedCheckExistence MountPutFile"),
    (_OPEN, "EnvironmentList WorkspaceNameLookup WorkspaceSettings MetricsGetInfo"),
    (_OPEN, "ImageFromId ImageJoinStreaming"),
    (_OPEN, "FunctionRetryInputs"),  # names its call and inputs by tokens that the server has signed for whoever made them
    (_OF_ITSELF_TO_ALL, "ContainerStop TaskCurrentInputs FunctionCallPutDataOut"),
    (_OF_ITSELF, "TunnelStart TunnelStop"),
    (_LOGS, "AppGetLogs AppFetchLogs AppCountLogs"),
    (_CHANGES, "AppCreate AppGetOrCreate AppPublish AppRollback AppRollover AppStop AppSetTags AppHeartbeat AppClientDisconnect"),
    (_USES, "AppLookup AppList AppGetByDeploymentName AppGetLayout AppGetObjects AppGetLifecycle AppGetInfo AppGetTags"),
    (_USES, "AppDeploymentHistory AppGetTimeRangeStats TaskList TaskGetInfo"),
    (_LOOKS_UP, "FunctionGet ClassGet FunctionBindParams"),
    (_USES, "FunctionPrecreate FunctionCreate ClassCreate"),
    (_USES, "FunctionGetById FunctionGetSerialized FunctionListVariants"),
    (_USES, "FunctionGetCurrentStats FunctionGetTimeRangeStats FunctionGetMetrics FunctionGetSchedulingParams"),
    (_CHANGES, "FunctionUpdateSchedulingParams"),
    (_USES, "FunctionMap FunctionPutInputs FunctionFinishInputs FunctionGetOutputs FunctionAsyncInvoke"),
    (_USES, "FunctionCallCancel FunctionCallFromId FunctionCallGetInfo FunctionCallGetDataOut FunctionGetCallGraph"),
    (_USES, "FunctionCallList FunctionCallFetch FunctionCallCount"),
    (_USES, "ServerRequestFetch ServerCountRequests ServerGetTimeRangeStats ServerGetMetrics"),
    (_USES, "ImageGetOrCreate ImagePublish ImageListTags ImageTagRevisions ImageNameDelete"),
    (_LOOKS_UP, "ImageGetByTag"),
    (_PERSON, "ImageDelete"),  # other environments may be made of it
    (_USES, "MountGetOrCreate"),
    (_CHANGES, "SecretGetOrCreate SecretUpdate SecretDelete SecretGetInfo SecretList"),
    (_LOOKS_UP, "DictGetOrCreate QueueGetOrCreate VolumeGetOrCreate SharedVolumeGetOrCreate"),
    (_USES, "DictGetById DictUpdate DictGet DictPop DictContains DictLen DictContents DictClear DictHeartbeat DictList"),
    (_USES, "QueueGetById QueuePut QueueGet QueueNextItems QueueLen QueueClear QueueHeartbeat QueueList"),
    (_MOUNTED, "VolumeCommit VolumeReload"),
    (_USES, "VolumeGetById VolumeHeartbeat VolumeList VolumeListFiles VolumeListFiles2 VolumeGetFile VolumeGetFile2"),
    (_USES, "VolumePutFiles VolumePutFiles2 VolumeRemoveFile VolumeRemoveFile2 VolumeCopyFiles VolumeCopyFiles2"),
    (_USES, "SharedVolumeHeartbeat SharedVolumeList SharedVolumePutFile SharedVolumeGetFile SharedVolumeListFiles"),
    (_USES, "SharedVolumeListFilesStream SharedVolumeRemoveFile"),
    (_CHANGES, "DictDelete QueueDelete VolumeDelete VolumeRename SharedVolumeDelete"),
    (_USES, "EnvironmentGetOrCreate"),
    (_PERSON, "EnvironmentCreate EnvironmentUpdate EnvironmentDelete WorkspaceSetDefaultEnvironment"),
    (_PERSON, "TokenInfoGet TokenDelete CurlGetAuthToken WebhookTokenCreate WebhookTokenList WebhookTokenListForEnvironment"),
    (_PERSON, "WebhookTokenUpdate WebhookTokenDelete WebhookTokenEnvironmentAdd WebhookTokenEnvironmentRemove"),
    (_PERSON, "WebhookTokenEnvironmentList"),
)


@dataclass(frozen=True, slots=True)
class Container:
    """Who asks."""

    task_id: str
    function: str  # what people call it
    function_id: str
    app_id: str
    environment_id: str
    is_restricted: bool
    given: Collection[str]  # ids in the definition of its function
    found: Collection[str]  # ids that it has looked up by name, and apps that it has made


@dataclass(frozen=True, slots=True)
class Owner:
    """Where an object belongs. `behind` are functions that open it too: first that of a call, then the one it was bound from."""

    environment_id: str
    behind: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """An object that a request names, and where it belongs."""

    kind: Kind
    object_id: str
    owner: Owner
    is_changed: bool  # the request would change it, or add to it


def kind_of(field: str, object_id: str) -> Kind | None:
    """What a field of a request names; None where that belongs to nobody in particular."""
    return _KINDS.get(object_id[:2]) if field == ANY_KIND else FIELDS.get(field) or KEYS.get(field)


def rule_of(name: str, container: Container) -> Rule:
    """The rule of an RPC, if this container may send it at all; raises NotAllowed."""
    rule = RULES.get(name)
    if rule is None:
        raise errors.NotAllowed(f"A container may not ask for {name}: it is not among what the platform offers to containers.")
    if rule.scope is Scope.PERSON:
        raise errors.NotAllowed(
            f"A container may not ask for {name}: the workspace, its environments and its tokens are changed and seen from "
            "outside, with a token."
        )
    if container.is_restricted and not rule.for_restricted:
        raise errors.NotAllowed(
            f"Function {container.function!r} is restricted (restrict_modal_access=True): its containers work on their inputs, and "
            f"may not use functions, dicts, queues, volumes or anything else of the platform ({name})."
        )
    return rule


def check(name: str, rule: Rule, container: Container, named: Named) -> None:
    """Raise NotAllowed if the container may not touch this object by this RPC."""
    if rule.scope is Scope.OPEN:
        return
    if rule.scope is Scope.TASK:
        _check_own(name, container, named)
    elif rule.scope is Scope.LOGS and named.kind is Kind.APP:
        _check_log(container, named)
    elif named.owner.environment_id != container.environment_id and (named.is_changed or not _may_use(container, named)):
        what = "change" if named.is_changed else "use"
        raise errors.NotAllowed(
            f"{named.kind.value} {named.object_id} belongs to another environment, and container {container.task_id} may not "
            f"{what} it ({name}). {'Do that from outside, with a token.' if named.is_changed else _HOW_TO_REACH}"
        )


_HOW_TO_REACH = (
    "Give it to the function by its definition, or look it up by its name and `environment_name=` in the container itself."
)


def _may_use(container: Container, named: Named) -> bool:
    return any(opener in container.given or opener in container.found for opener in (named.object_id, *named.owner.behind))


def _check_own(name: str, container: Container, named: Named) -> None:
    if named.kind is Kind.TASK and named.object_id == container.task_id:
        return
    if named.kind is Kind.CALL and named.owner.behind[:1] == (container.function_id,):
        return
    raise errors.NotAllowed(
        f"{named.kind.value} {named.object_id} is not that of container {container.task_id}, which may not speak for it ({name})."
    )


def _check_log(container: Container, named: Named) -> None:
    if named.object_id != container.app_id and named.object_id not in container.found:
        raise errors.NotAllowed(
            f"App {named.object_id} is another than that of container {container.task_id}, which may not read its output. "
            "`modal app logs` outside shows it."
        )
