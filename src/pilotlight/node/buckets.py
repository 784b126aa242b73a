"""Buckets as directories: `rclone mount`, one process for each bucket of each container.

Invariant: no mount is visible outside of the namespace in which containers are put together, and none outlives the agent: the
kernel kills each process at the agent's death, and the namespace goes with them. Credentials are in the process's environment,
which root alone may read, never in its arguments or in a file.

Objects are written as they come and are in the bucket when `close` returns, with its error; so files are written from their
beginning to their end, and not changed in between.
"""

import asyncio
import contextlib
import ipaddress
import shutil
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog

from pilotlight.core import errors
from pilotlight.core.containers import Bind, ContainerSpec
from pilotlight.node.rootfs import IdMap
from pilotlight.wire.platform_pb2 import BucketMount

log = structlog.get_logger()
T = TypeVar("T")

PROGRAMS = {"rclone": "rclone", "fusermount3": "fuse3"}  # and their Debian packages
READY_LIMIT_S = 30.0  # to mount
LISTING_LIMIT_S = 15.0  # to list the top directory; longer ones are taken for good
END_LIMIT_S = 10.0
TTL_S = 1  # what is known of a directory is believed for so long, where the mount says nothing
SHOWN_LINES = 3
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REMOTE = "BUCKET"


@dataclass(slots=True, eq=False)
class _Mounted:
    """A bucket that is mounted, and the process that serves it."""

    mount: BucketMount
    point: Path
    process: asyncio.subprocess.Process
    reading: asyncio.Task[None]
    said: deque[str]


class Buckets:
    """All mounted buckets of this machine's containers. `namespace` gives a descriptor of the mount namespace of their set-up."""

    def __init__(
        self, directory: Path, namespace: Callable[[], int], environment: Mapping[str, str], *, allow_local: bool = False
    ) -> None:
        """`environment`: proxies and authorities of the operator, for the way to stores; `allow_local`: on this machine too."""
        self._directory = directory
        self._namespace = namespace
        self._allow_local = allow_local
        self._environment = {"PATH": _PATH, **environment}
        self._mounted: dict[str, list[_Mounted]] = {}  # by task id

    def sweep(self) -> None:
        """Remove the directories of a former agent; its mounts went with it."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        self._directory.chmod(0o711)

    async def mounted(self, spec: ContainerSpec, mounts: Sequence[BucketMount]) -> ContainerSpec:
        """The container with its buckets, each mounted until `unmount`; raises WrongState that says why one can't be."""
        if not mounts:
            return spec
        _require_programs()
        directory = self._directory / spec.container_id
        directory.mkdir(mode=0o711)
        self._mounted[spec.container_id] = []
        points = await _all(*(self._mount(spec.container_id, index, mount) for index, mount in enumerate(mounts)))
        binds = (Bind(point, mount.mount_path, mount.read_only) for point, mount in zip(points, mounts, strict=True))
        return replace(spec, binds=(*spec.binds, *binds))

    async def unmount(self, task_id: str) -> None:
        """End what a container had; unknown ones are no error."""
        mounted = self._mounted.pop(task_id, None)
        if mounted is not None:
            await asyncio.gather(*(_end(each) for each in mounted))
            shutil.rmtree(self._directory / task_id, ignore_errors=True)

    async def _mount(self, task_id: str, index: int, mount: BucketMount) -> Path:
        if mount.endpoint and not self._allow_local:
            await _require_elsewhere(mount)
        point = self._directory / task_id / str(index)
        point.mkdir(mode=0o711)
        environment = {**self._environment, **_remote(mount)}
        await _all(_check(mount, environment), self._serve(task_id, mount, point, environment))
        return point

    async def _serve(self, task_id: str, mount: BucketMount, point: Path, environment: Mapping[str, str]) -> None:
        notices = point.with_name(f"{point.name}.ready")
        ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            ready.bind(str(notices))
            namespace = self._namespace()
            process = await asyncio.create_subprocess_exec(
                *("nsenter", f"--mount=/proc/self/fd/{namespace}", "--", "setpriv", "--pdeathsig", "KILL", "--"),
                *_command(mount, point),
                env={**environment, "NOTIFY_SOCKET": str(notices)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(namespace,),
            )
            said: deque[str] = deque(maxlen=SHOWN_LINES)
            reading = asyncio.get_running_loop().create_task(_listen(process, mount, said))
            mounted = _Mounted(mount, point, process, reading, said)
            self._mounted[task_id].append(mounted)
            await _until_ready(mounted, ready)
        finally:
            ready.close()


def _command(mount: BucketMount, point: Path) -> list[str]:
    ttl_s = mount.metadata_ttl_s or TTL_S
    ids = IdMap()
    options = {
        "--vfs-cache-mode": "off",
        "--dir-cache-time": f"{ttl_s}s",
        "--attr-timeout": f"{ttl_s}s",
        "--poll-interval": "0",
        "--uid": str(ids.first),
        "--gid": str(ids.first),
        "--umask": "0",
        "--dir-perms": "0777",
        "--file-perms": "0666",
        "--cache-dir": str(point.with_name(f"{point.name}.cache")),
        "--log-level": "ERROR",
    }
    flags = ["--allow-other", *(["--read-only"] if mount.read_only else [])]
    return ["rclone", "mount", _path(mount), str(point), *flags, *(part for option in options.items() for part in option)]


def _path(mount: BucketMount) -> str:
    return f"{_REMOTE}:{mount.bucket}/{mount.prefix}".rstrip("/")


def _remote(mount: BucketMount) -> dict[str, str]:
    """The store as rclone's variables describe it."""
    values = {
        "TYPE": "s3",
        "PROVIDER": "Other" if mount.endpoint else "AWS",
        "ENDPOINT": mount.endpoint,
        "ACCESS_KEY_ID": mount.access_key_id,
        "SECRET_ACCESS_KEY": mount.secret_access_key,
        "SESSION_TOKEN": mount.session_token,
        "REGION": mount.region,
        "FORCE_PATH_STYLE": str(mount.path_style).lower(),
        "NO_CHECK_BUCKET": "true",
        "ENV_AUTH": "false",  # never those of this machine
    }
    settings = {f"RCLONE_CONFIG_{_REMOTE}_{name}": value for name, value in values.items() if value}
    return {"RCLONE_CONFIG": "/dev/null", **settings}


async def _require_elsewhere(mount: BucketMount) -> None:
    """Raise NotAllowed for a store on this machine: the connection is made from its network, which containers must not reach."""
    host = urlsplit(mount.endpoint).hostname or ""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _refused(mount, [f"{host} is not known here: {error.strerror}"]) from error
    for family, _, _, _, place in found:
        if _is_here(family, str(place[0])):
            raise errors.NotAllowed(
                f"Bucket {mount.bucket!r} at {mount.endpoint} can't be mounted: {place[0]} is an address of this machine. "
                "Name a store elsewhere, or have the operator set PILOTLIGHT_BUCKET_ALLOW_LOCAL=1."
            )


def _is_here(family: int, address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    if parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified:
        return True
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))  # only an address of one's own can be bound
        except OSError:
            return False
    return True


async def _all(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Do it at once and to its end; raises the first error there was."""
    done = await asyncio.gather(*work, return_exceptions=True)
    for outcome in done:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in done if not isinstance(outcome, BaseException)]


async def _check(mount: BucketMount, environment: Mapping[str, str]) -> None:
    """Ask for the top directory once: a wrong key, name or address is told at the start, not as an I/O error later."""
    limits = ("--max-depth", "1", "--retries", "1", "--low-level-retries", "2", "--contimeout", "10s", "--log-level", "ERROR")
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", "--", "rclone", "lsf", _path(mount), *limits),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(LISTING_LIMIT_S):
            _, said = await process.communicate()
    except TimeoutError:
        log.info("bucket_is_large", bucket=mount.bucket, listed_for_s=LISTING_LIMIT_S)
        return
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode:
        raise _refused(mount, said.decode(errors="replace").splitlines())


async def _until_ready(mounted: _Mounted, ready: socket.socket) -> None:
    """Return once the mount is there, which its process says; raises WrongState."""
    loop = asyncio.get_running_loop()
    told = loop.create_task(loop.sock_recv(ready, 1024))
    ended = loop.create_task(mounted.process.wait())
    try:
        await asyncio.wait((told, ended), timeout=READY_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        if told.done() and b"READY=1" in told.result():
            return
        if ended.done():
            await mounted.reading
            raise _refused(mounted.mount, mounted.said)
        raise _refused(mounted.mount, [f"it was not mounted within {READY_LIMIT_S:.0f} s"])
    finally:
        told.cancel()
        ended.cancel()


async def _listen(process: asyncio.subprocess.Process, mount: BucketMount, said: deque[str]) -> None:
    """Hand what the process says to our log, and keep the last of it."""
    assert process.stderr is not None
    async for line in process.stderr:
        text = line.decode(errors="replace").strip()
        if text:
            said.append(text)
            log.warning("bucket_problem", bucket=mount.bucket, said=text)


async def _end(mounted: _Mounted) -> None:
    process = mounted.process
    with contextlib.suppress(ProcessLookupError):
        process.terminate()  # it unmounts, then ends
    try:
        async with asyncio.timeout(END_LIMIT_S):
            await process.wait()
    except TimeoutError:
        log.error("bucket_not_unmounted", bucket=mounted.mount.bucket, waited_s=END_LIMIT_S)
        process.kill()
        await process.wait()
    await mounted.reading


def _refused(mount: BucketMount, said: Sequence[str]) -> errors.PilotlightError:
    lines = [line.strip() for line in said if line.strip() and "status code:" not in line.partition(",")[0]]
    why = lines[-1].rpartition("error in ListJSON: ")[2] if lines else "no reason was given"
    place = mount.endpoint or "AWS"
    return errors.WrongState(
        f"Bucket {mount.bucket!r} at {place} can't be mounted at {mount.mount_path!r}: {why}. Check the bucket's name, "
        "bucket_endpoint_url, force_path_style and the credentials in its secret."
    )


def _require_programs() -> None:
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program, path=_PATH) is None]
    if missing:
        raise errors.WrongState(
            f"This machine can't mount buckets: {' and '.join(missing)} is missing. Install it: apt-get install rclone fuse3"
        )
    if not Path("/dev/fuse").exists():
        raise errors.WrongState("This machine can't mount buckets: there is no /dev/fuse. Load the kernel's module: modprobe fuse")
