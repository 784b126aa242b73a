"""Images from registries and archives, by skopeo, unpacked into layers.

Invariant: every source (registry, OCI layout, archive) goes through the same form on disk, so that there is one place which
unpacks, and a layer unpacked from a tar has the id of that tar's digest.
"""

import asyncio
import base64
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotlight.config import Settings
from pilotlight.core.errors import Busy, InvalidInput, NotAllowed, NotFound
from pilotlight.images import programs
from pilotlight.images.layers import LayerStore, definition_id
from pilotlight.images.references import DEFAULT_DOMAIN, Reference
from pilotlight.images.surroundings import Surroundings
from pilotlight.images.trees import MAX_DEPTH, OPAQUE
from pilotlight.wire import platform_pb2

PROBE_TIMEOUT_S = 6.0
PULL_TIMEOUT_S = 3600.0
SILENCE_REMEMBERED_S = 60.0
WHITEOUT = ".wh."
OPAQUE_MARK = ".wh..wh..opq"
_NO_SUCH = re.compile(
    r"manifest unknown|name unknown|not found|repository name not known|MANIFEST_UNKNOWN|NAME_UNKNOWN", re.IGNORECASE
)
_REFUSED = re.compile(r"unauthorized|authentication required|denied|invalid username|403 \(forbidden\)", re.IGNORECASE)
_BUSY = re.compile(r"toomanyrequests|too many requests", re.IGNORECASE)
_SILENT = re.compile(
    r"no such host|connection refused|i/o timeout|deadline exceeded|unreachable|proxyconnect|no route|EOF", re.IGNORECASE
)


class NoRegistry(Busy):
    """No registry answered: not known whether the image exists."""


@dataclass(frozen=True)
class Auth:
    """Credentials for one registry."""

    username: str
    password: str


@dataclass(frozen=True)
class UnpackedImage:
    """Layer ids, lowest first, and what the image says of its process."""

    layers: tuple[str, ...]
    config: platform_pb2.ImageConfig


class Registry:
    """Fetches images that are named by reference."""

    def __init__(
        self, settings: Settings, surroundings: Surroundings, layers: LayerStore, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._surroundings = surroundings
        self._layers = layers
        self._clock = clock
        self._silent_until: dict[str, tuple[float, str]] = {}

    async def pull(self, reference: Reference, auth: Auth | None = None) -> UnpackedImage:
        """Fetch and unpack; layers that are here are not fetched twice only if the registry says the same digests.

        Errors: NoRegistry (remembered for a minute, so that refusals are quick), NotFound (the registry has no such image),
        NotAllowed, Busy.
        """
        host = self._settings.registry_mirror or reference.domain
        until, reason = self._silent_until.get(host, (0.0, ""))
        if self._clock() < until:
            raise NoRegistry(reason)
        source = f"docker://{self._name(reference)}"
        flags = ["--src-tls-verify=false"] if self._settings.registry_insecure and self._settings.registry_mirror else []
        with tempfile.TemporaryDirectory(prefix="pilotlight-pull-") as directory:
            env = self._surroundings.host_env() | _auth_file(Path(directory) / "auth.json", host, auth)
            probe = ["inspect", "--raw", *[flag.replace("--src-", "--") for flag in flags], source]
            try:
                await _skopeo(probe, env, PROBE_TIMEOUT_S)
            except Busy as exc:
                raise self._explained(reference, host, str(exc)) from exc
            try:
                return await unpack(source, self._layers, env=env, flags=flags)
            except Busy as exc:
                raise Busy(f"Base image {reference} could not be fetched from {host}: {exc}. Try again.") from exc

    def _name(self, reference: Reference) -> str:
        mirror = self._settings.registry_mirror
        return str(Reference(mirror, reference.repository, reference.tag, reference.digest)) if mirror else str(reference)

    def _explained(self, reference: Reference, host: str, said: str) -> Exception:
        if _SILENT.search(said):
            reason = f"no registry answers at {host} ({said.rpartition(': ')[2].strip()})"
            self._silent_until[host] = (self._clock() + SILENCE_REMEMBERED_S, reason)
            return NoRegistry(reason)
        if _BUSY.search(said):
            return Busy(
                f"Registry {host} allows no more requests for now, so {reference} can't be fetched. Try later, or with a secret."
            )
        if _NO_SUCH.search(said):
            return NotFound(f"Registry {host} has no image {reference}. Check its name and tag.")
        if _REFUSED.search(said):
            return NotAllowed(f"Registry {host} does not give out {reference}: check the name, and pass a secret if it is private.")
        return Busy(f"Base image {reference} could not be fetched from {host}: {said}")


async def unpack(source: str, layers: LayerStore, *, env: dict[str, str], flags: Sequence[str] = ()) -> UnpackedImage:
    """Unpack what skopeo calls `source` (docker://…, oci:…, docker-archive:…) into layers; errors: Busy, InvalidInput."""
    with tempfile.TemporaryDirectory(prefix="pilotlight-image-") as directory:
        command = ["copy", "--quiet", "--dest-decompress", *flags, source, f"dir:{directory}"]
        await _skopeo(["--override-os=linux", "--override-arch=amd64", *command], env, PULL_TIMEOUT_S)
        root = Path(directory)
        manifest = json.loads((root / "manifest.json").read_text())
        if "layers" not in manifest:
            raise InvalidInput(f"{source} is in a form of image that is too old (schema 1). Push it again with a current tool.")
        config = json.loads(_blob(root, manifest["config"]["digest"]).read_text())
        ids: list[str] = []
        for number, layer in enumerate(manifest["layers"]):
            layer_id = definition_id("tar", layer["digest"])
            command_text = f"layer {number} of {source}"
            await layers.make(
                layer_id, parent=ids[-1] if ids else "", command=command_text, fill=_extraction(_blob(root, layer["digest"]))
            )
            ids.append(layer_id)
        return UnpackedImage(tuple(ids), image_config(config.get("config") or {}))


def image_config(said: dict[str, Any]) -> platform_pb2.ImageConfig:
    """What an image's own configuration means to us."""
    return platform_pb2.ImageConfig(
        env=said.get("Env") or [],
        workdir=said.get("WorkingDir") or "",
        entrypoint=said.get("Entrypoint") or [],
        cmd=said.get("Cmd") or [],
        user=said.get("User") or "",
    )


def _blob(root: Path, digest: str) -> Path:
    return root / digest.partition(":")[2]


def _extraction(archive: Path):
    async def fill(content: Path) -> None:
        await extract(archive, content)

    return fill


async def extract(archive: Path, into: Path) -> None:
    """Unpack a tar of a layer; its marks of deletion become those of overlayfs. Errors: InvalidInput.

    tar itself keeps names inside the directory: it strips leading slashes, refuses "..", and delays links that point outside.
    """
    command = ["tar", "--extract", "--file", str(archive), "--directory", str(into), "--numeric-owner", "--same-owner"]
    command += ["--same-permissions", "--xattrs", "--xattrs-include=*", "--warning=no-timestamp"]
    finished = await programs.run(command)
    if finished.code:
        raise InvalidInput(f"{archive.name[:12]} can't be unpacked: {finished.last_words()}")
    try:
        await asyncio.to_thread(_convert_whiteouts, into)
    except RecursionError as error:
        raise InvalidInput(f"{archive.name[:12]} has more than {MAX_DEPTH} directories in one another.") from error


def _convert_whiteouts(root: Path) -> None:
    for directory, _, names in os.walk(root):
        for name in names:
            if not name.startswith(WHITEOUT):
                continue
            mark = Path(directory) / name
            mark.unlink()
            if name == OPAQUE_MARK:
                os.setxattr(directory, OPAQUE, b"y")
            elif not name.startswith(".wh..wh."):
                if name.removeprefix(WHITEOUT) in ("", ".", ".."):
                    raise InvalidInput(f"The layer has the mark {name!r}, which names nothing to delete: it can't be an image's.")
                hidden = mark.with_name(name.removeprefix(WHITEOUT))
                if not os.path.lexists(hidden):
                    os.mknod(hidden, stat.S_IFCHR | 0o600, os.makedev(0, 0))


def _auth_file(path: Path, host: str, auth: Auth | None) -> dict[str, str]:
    """Credentials in a file: on a command line everyone on this machine could read them."""
    if auth is None:
        return {}
    key = "https://index.docker.io/v1/" if host == DEFAULT_DOMAIN else host
    token = base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
    path.touch(mode=0o600)
    path.write_text(json.dumps({"auths": {key: {"auth": token}}}))
    return {"REGISTRY_AUTH_FILE": str(path)}


async def _skopeo(arguments: Sequence[str], env: dict[str, str], timeout_s: float) -> None:
    """Run skopeo; errors: Busy with what it said last."""
    try:
        finished = await programs.run(["skopeo", *arguments], env=env, timeout_s=timeout_s)
    except FileNotFoundError as exc:
        raise Busy("no registry can be asked (connection refused: skopeo is missing; apt-get install skopeo)") from exc
    except TimeoutError as exc:
        raise Busy(f"timeout after {timeout_s:g} s") from exc
    if finished.code:
        lines = [line for line in finished.errors.splitlines() if "level=fatal" in line or "level=error" in line]
        said = lines[-1].partition('msg="')[2].rstrip('"').replace('\\"', '"') if lines else finished.last_words()
        raise Busy(said or f"skopeo ended with {finished.code}")
