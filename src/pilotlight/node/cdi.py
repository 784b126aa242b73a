"""CDI: what a vendor's specification files say a container needs in order to see a device.

Files are JSON or YAML in the two directories of the Container Device Interface; one in the second (made at run time) takes the
place of what the first says of the same device. Source: the CDI specification, SPEC.md, versions 0.3 to 1.0.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilotlight.core.containers import Bind, Hook
from pilotlight.core.errors import InvalidInput

DIRECTORIES = (Path("/etc/cdi"), Path("/var/run/cdi"))
KIND = "nvidia.com/gpu"
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


@dataclass(frozen=True)
class Edits:
    """What is added to a container."""

    env: Mapping[str, str] = field(default_factory=dict[str, str])
    binds: tuple[Bind, ...] = ()
    hooks: tuple[Hook, ...] = ()

    def __add__(self, other: "Edits") -> "Edits":
        """Both, what they have in common once."""
        return Edits(
            {**self.env, **other.env},
            tuple(dict.fromkeys((*self.binds, *other.binds))),
            tuple(dict.fromkeys((*self.hooks, *other.hooks))),
        )


@dataclass(frozen=True)
class Spec:
    """One file: `common` is for whoever gets one of the devices."""

    path: Path
    kind: str
    devices: Mapping[str, Edits]
    common: Edits


class Specs:
    """The specifications of this machine, read anew when a file changes. May be asked from any thread."""

    def __init__(self, directories: Sequence[Path] = DIRECTORIES) -> None:
        self._directories = directories
        self._read: dict[Path, tuple[tuple[int, int], Spec]] = {}  # by (time of change, size)

    def all(self) -> tuple[list[Spec], list[InvalidInput]]:
        """Those of GPUs, the weightiest first; and what is wrong with files that can't be understood, maybe another vendor's."""
        specs: list[Spec] = []
        broken: list[InvalidInput] = []
        for path in [path for directory in reversed(self._directories) for path in sorted(_files(directory))]:
            try:
                spec = self._spec(path)
            except InvalidInput as error:
                broken.append(error)
                continue
            if spec.kind == KIND:
                specs.append(spec)
        return specs, broken

    def edits(self, wanted: Iterable[Sequence[str]]) -> Edits | None:
        """All that several devices need, each given by the names that it may go by, the best first; None where one has none.

        Raises InvalidInput where a device has none, and a file that might have it can't be understood.
        """
        specs, broken = self.all()
        edits = Edits()
        for names in wanted:
            found = next(((spec, name) for name in names for spec in specs if name in spec.devices), None)
            if found is None:
                if broken:
                    raise broken[0]
                return None
            spec, name = found
            edits = edits + spec.common + spec.devices[name]
        return edits

    def _spec(self, path: Path) -> Spec:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._read.get(path)
        if known is None or known[0] != stamp:
            known = self._read[path] = (stamp, parse(path.read_text(), path))
        return known[1]


def _files(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.suffix in (".json", ".yaml", ".yml")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def parse(text: str, path: Path) -> Spec:
    """A specification from the text of its file. Raises InvalidInput, which names the file and what is wrong."""
    try:
        document = _load(text, path)
        devices = {str(device["name"]): _edits(device.get("containerEdits")) for device in document.get("devices") or ()}
        return Spec(path, str(document["kind"]), devices, _edits(document.get("containerEdits")))
    except InvalidInput as error:
        raise InvalidInput(f"The CDI specification {path} can't be used: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InvalidInput(
            f"The CDI specification {path} can't be understood ({why}). Make it anew: nvidia-ctk cdi generate --output={path}"
        ) from error


def _load(text: str, path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        return json.loads(text)
    import yaml  # only where there is such a file

    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _edits(document: Mapping[str, Any] | None) -> Edits:
    document = document or {}
    return Edits(
        dict(entry.partition("=")[::2] for entry in document.get("env") or ()),
        (*_each(_device, document.get("deviceNodes")), *_each(_mount, document.get("mounts"))),
        tuple(_each(_hook, document.get("hooks"))),
    )


def _each(make: Callable[[Mapping[str, Any]], Any], entries: Sequence[Mapping[str, Any]] | None) -> list[Any]:
    return [make(entry) for entry in entries or ()]


def _device(entry: Mapping[str, Any]) -> Bind:
    # Containers have a user namespace, in which no device can be made: the host's own node is shown instead.
    permissions = str(entry.get("permissions") or "rwm")
    return Bind(Path(entry.get("hostPath") or entry["path"]), entry["path"], read_only="w" not in permissions, is_device=True)


def _mount(entry: Mapping[str, Any]) -> Bind:
    return Bind(Path(entry["hostPath"]), entry["containerPath"], read_only="ro" in (entry.get("options") or ()))


def _hook(entry: Mapping[str, Any]) -> Hook:
    if entry["hookName"] not in HOOKS:
        raise InvalidInput(f"it has a hook {entry['hookName']!r}, which no OCI runtime knows; they are {', '.join(HOOKS)}.")
    arguments, env = tuple(entry.get("args") or (entry["path"],)), tuple(entry.get("env") or ())
    return Hook(entry["hookName"], entry["path"], arguments, env, int(entry.get("timeout") or 0))
