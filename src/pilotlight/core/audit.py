"""What is written down of who changed what: which requests, and which of their fields.

Invariant: only fields that are named here are ever read, and none of them holds a secret or what users keep: names, ids and paths.
"""

from dataclasses import dataclass
from typing import Any

MAX_OBJECT_CHARS = 200
SIGN_IN = "sign in"  # the action of a request whose token was not accepted
OF_REPLY = "reply."
NAMED = ("environment_name", "deployment_name")

# Action, by the name of its RPC → the fields that name what it is about: of the request, or behind OF_REPLY of the reply.
# Calls, and what programs put into dicts and queues, are no changes of the platform.
ACTIONS: dict[str, tuple[str, ...]] = {
    **{"AppCreate": ("environment_name", "description", "reply.app_id"), "AppGetOrCreate": ("environment_name", "app_name")},
    **{"AppPublish": ("app_id", "name"), "AppRollback": ("app_id",), "AppRollover": ("app_id",), "AppSetTags": ("app_id",)},
    **{"AppStop": ("app_id",), "AppClientDisconnect": ("app_id",), "ContainerStop": ("task_id",)},
    **{"FunctionCallCancel": ("function_call_id",), "FunctionUpdateSchedulingParams": ("function_id",)},
    **{"DictGetOrCreate": NAMED, "DictClear": ("dict_id",), "DictDelete": ("dict_id",)},
    **{"QueueGetOrCreate": NAMED, "QueueClear": ("queue_id",), "QueueDelete": ("queue_id",)},
    **{"SecretGetOrCreate": NAMED, "SecretUpdate": ("secret_id",), "SecretDelete": ("secret_id",)},
    **{"SharedVolumeGetOrCreate": NAMED, "SharedVolumeDelete": ("shared_volume_id",)},
    **{"SharedVolumePutFile": ("shared_volume_id", "path"), "SharedVolumeRemoveFile": ("shared_volume_id", "path")},
    **{"VolumeGetOrCreate": NAMED, "VolumeDelete": ("volume_id",), "VolumeRename": ("volume_id", "name")},
    **{"VolumePutFiles": ("volume_id",), "VolumePutFiles2": ("volume_id",)},
    **{"VolumeCopyFiles": ("volume_id", "dst_path"), "VolumeCopyFiles2": ("volume_id", "dst_path")},
    **{"VolumeRemoveFile": ("volume_id", "path"), "VolumeRemoveFile2": ("volume_id", "path")},
    **{"MountGetOrCreate": NAMED, "ImageDelete": ("image_id",), "ImageNameDelete": ("tag",), "ImagePublish": ("tag", "image_id")},
    **{"EnvironmentCreate": ("name",), "EnvironmentDelete": ("name",), "EnvironmentUpdate": ("current_name",)},
    **{"EnvironmentGetOrCreate": ("deployment_name",), "WorkspaceSetDefaultEnvironment": ("environment_name",)},
    **{"TokenDelete": ("token_id",), "TunnelStart": ("port",), "TunnelStop": ("port",)},
    **{"WebhookTokenCreate": ("name",), "WebhookTokenDelete": ("token_id",), "WebhookTokenUpdate": ("token_id", "name")},
    "WebhookTokenEnvironmentAdd": ("token_id", "environment_id"),
    "WebhookTokenEnvironmentRemove": ("token_id", "environment_id"),
    # Of our own command line.
    **{"TokenCreate": ("name", "reply.token_id"), "TokenRevoke": ("token_id",)},
    **{"ProxyTokenCreate": ("name", "reply.token_id"), "ProxyTokenRevoke": ("token_id",)},
    **{"RotateSecretsKey": (), "Collect": (), "NodeDrain": ("node",), "Backup": ()},
    **{"WebhookAdd": ("environment", "app", "function"), "WebhookRemove": ("webhook_id",), "WebhookRedeliver": ("delivery_id",)},
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was changed, or was to be. `event_id` is 0 until it is written down; `at` is seconds since the epoch."""

    event_id: int
    at: float
    actor: str
    address: str
    action: str
    object: str
    outcome: str


def changes_nothing(request: Any) -> bool:
    """Whether a request that may be an action merely asks: for a thing that is there, for one without a name, or what would be."""
    kind = getattr(request, "object_creation_type", None)
    if kind is not None:
        return kind == 0 or not (getattr(request, "deployment_name", "") or getattr(request, "app_name", ""))
    return bool(getattr(request, "dry_run", False))


def object_of(action: str, request: Any, reply: Any = None) -> str:
    """What an action is about: "main/cache", "ap-…". `reply` is None for one that failed."""
    words: list[str] = []
    for name in ACTIONS[action]:
        source = reply if name.startswith(OF_REPLY) else request
        value = "" if source is None else str(getattr(source, name.removeprefix(OF_REPLY)))
        if value:
            words.append(value)
    return printable("/".join(words))


def printable(text: str) -> str:
    """Foreign text as it may be shown in a terminal, and not longer than is useful."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= MAX_OBJECT_CHARS else clean[: MAX_OBJECT_CHARS - 1] + "…"
