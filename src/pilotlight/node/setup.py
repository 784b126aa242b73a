"""How a container is set up and taken down: ordered steps on a thread, each with an undo that is safe even if the step never ran.

Owns one invariant: `start` either returns a running container or leaves nothing behind. The order: directories, cgroups, root file
system, bundle, `create` (namespaces exist, the program does not run), network, `start`: held on its way into our init until
`admission` has looked at it. Everything here blocks.
"""

import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import structlog

from pilotlight.config import Settings
from pilotlight.core import errors
from pilotlight.core.containers import ContainerSpec
from pilotlight.images.removal import remove_tree
from pilotlight.node import bundle, cgroups, disk, dns, kernel_shares, strict, syscalls, verifier
from pilotlight.node.admission import Admission, at, resolved
from pilotlight.node.killing import kill_all, kill_and_wait, kill_child
from pilotlight.node.memory import offered_mib
from pilotlight.node.mount_points import OWN_FILES, MountPoints
from pilotlight.node.network import INTERFACE, Network, Port
from pilotlight.node.observed import Mount
from pilotlight.node.rootfs import IdMap, Stage, Upper
from pilotlight.node.tracing import Held
from pilotlight.node.users import find_user
from pilotlight.node.volumes import place_links

log = structlog.get_logger()

INIT_PATHS = tuple(
    Path(path) for path in ("/usr/bin/catatonit", "/usr/libexec/catatonit/catatonit", "/usr/libexec/podman/catatonit")
)
_STEP_IN = 'for group in $GROUPS_TO_JOIN; do echo 0 >"$group" || exit 1; done; unset GROUPS_TO_JOIN; exec "$@"'
_SYSCTLS = {"net.ipv4.ping_group_range": "0 65535", "net.ipv4.ip_unprivileged_port_start": "0"}
_IPV6_OFF = {"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"}


class Forked(Protocol):
    """The first process of a container that is not the agent's child."""

    def exit_code(self) -> int:
        """Its program's, once it has ended."""
        ...

    def close(self) -> None:
        """Let go of it; safe to repeat."""
        ...


@dataclass
class Started:
    """What belongs to one container, for as long as something of it is there."""

    container_id: str
    directory: Path
    upper: Upper
    group: cgroups.Group
    points: Path = Path()  # the layer that its mounts go onto
    port: Port | None = None
    pid: int = 0
    pidfd: int = -1
    forked: Forked | None = None  # where no OCI runtime made it
    wanted: bundle.Bundle | None = None
    staged: tuple[Mount, ...] = ()  # what its root and binds show
    is_strict: bool = False
    companions: tuple[int, ...] = ()  # processes beside a strict one's, to be ended with it
    setup_ms: dict[str, float] = field(default_factory=dict)
    told_ns: int = 0  # since the epoch, when one that was forked was told what it is

    @contextlib.contextmanager
    def step(self, name: str) -> Generator[None]:
        """Time a step."""
        begun = time.perf_counter()
        yield
        self.setup_ms[name] = (time.perf_counter() - begun) * 1000


class Setup:
    """Makes and unmakes containers of one platform."""

    def __init__(self, settings: Settings, ids: IdMap) -> None:
        self.network = Network(settings)
        self.ids = ids
        self._run_dir = settings.run_dir
        self._containers_dir = settings.run_dir / "containers"
        self._scratch_dir = settings.node_dir / "scratch"
        self.stage = Stage(settings.run_dir / "stage", ids)
        self.groups = cgroups.Groups(
            f"pilotlight-{settings.instance}", cgroups.own_places(), offered_mib(settings), kernel_shares.processes_together()
        )
        self._points = MountPoints(settings.node_dir / "points")
        self._disk_mib = settings.ephemeral_disk_mib
        self._runtime = settings.oci_runtime
        self._runtime_dir = settings.run_dir / "oci"
        self._is_strict = settings.isolation == "strict"
        self.init = Path()
        self.admission = Admission()
        self.sysctls: dict[str, str] = {}
        self.on_root: Callable[[ContainerSpec, Path], None] = lambda spec, root: None  # a container's file system is mounted here

    @property
    def threads(self) -> ThreadPoolExecutor:
        """Where `start` must be called."""
        return self.stage.threads

    @property
    def cleaners(self) -> ThreadPoolExecutor:
        """Where `clean_up` must be called."""
        return self.stage.cleaners

    @property
    def namespace(self) -> int:
        """A descriptor of the mount namespace in which `start` finds the sources of binds."""
        return self.stage.namespace

    def open(self) -> None:
        """Sweep, then make what all containers share."""
        self.init = _find_init()
        if shutil.which(self._runtime) is None:
            raise errors.PilotlightError(f"The OCI runtime {self._runtime} is missing. Install it: apt-get install {self._runtime}")
        if self._is_strict and (problem := strict.missing()):
            raise errors.PilotlightError(problem)
        self.sweep()
        for directory in (self._run_dir, self._containers_dir, self._run_dir / "stage"):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o711)  # the containers' root must be able to walk through, and to read nothing
        # Whoever else is on this machine comes no further: the doors and arguments of all containers are below.
        os.chown(self._run_dir, -1, self.ids.first)
        self._run_dir.chmod(0o710)
        self._scratch_dir.mkdir(parents=True, exist_ok=True)
        if missing := self.groups.open():
            log.warning("cgroups.controllers_missing", controllers=missing, effect="these limits are not kept")
        kernel_shares.make_room()
        self.stage.open()
        self.admission.open(self.stage.namespace)
        self.network.open()
        self.sysctls = dict(_SYSCTLS)
        if Path("/proc/sys/net/ipv6").exists():
            self.sysctls |= _IPV6_OFF

    def close(self) -> None:
        """Remove what all containers shared. Safe to repeat, and after an `open` that failed half-way."""
        self.stage.close()
        self.network.close()
        self.sweep()
        self.groups.close()
        shutil.rmtree(self._run_dir / "stage", ignore_errors=True)

    def sweep(self) -> None:
        """Kill and remove the containers of a former agent. Mounts need no sweeping: they went with its processes."""
        for group in self.groups.leftovers():
            kill_all(group.processes)
            group.remove()
        self._points.sweep()
        for directory in (self._containers_dir, self._runtime_dir, self._scratch_dir):
            remove_tree(directory)

    def start(self, spec: ContainerSpec, stdout: int, stderr: int) -> Started:
        """Set up and start; on one of `threads`. Raises a PilotlightError, with everything undone."""
        started = self.prepare(spec)
        try:
            if started.is_strict:
                strict.refuse(spec)
            with started.step("directories"):
                self.reserve(spec, started)
            with started.step("cgroups"):
                self.limit(spec, started)
            with started.step("create"), self.stage.private():
                self._create(spec, started, stdout, stderr)
            with started.step("network"):
                self._connect(started)
            if started.is_strict:
                self._start_strict(started)
                return started
            with Held(started.pid, follow_exec=True) as held:
                with started.step("start"):
                    self.call_runtime(started, "start", started.container_id)
                    is_there = held.until_exec()
                if is_there:  # else its end is found as any other's
                    with started.step("verify"):
                        self.admission.admit(started.container_id, held, self.expected(started), started.group)
        except BaseException as error:
            self.undo(started)
            if isinstance(error, OSError):
                what = errors.DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else errors.PilotlightError
                raise what(f"Container {spec.container_id} could not be set up: {error}.") from error
            raise
        return started

    def _start_strict(self, started: Started) -> None:
        """What runs already is gVisor, which has none of the image's code yet."""
        with started.step("verify"):
            started.companions = strict.companions(started.pid, started.group)
            strict.check(started.container_id, started.pid, started.group)
        with started.step("start"), self.stage.private(), strict.without_network_settings(self._run_dir / "stage" / "settings"):
            self.call_runtime(started, "start", started.container_id)
            strict.check_filter(started.container_id, started.pid)

    def clean_upper(self, started: Started) -> None:
        """Remove the overlay's working directory beside the upper one."""
        remove_tree(started.upper.parent / started.upper.work)

    def clean_up(self, started: Started) -> None:
        """Remove all that is left of a container that has ended; on one of `cleaners`."""
        self._forget(started)
        self.remove(started)

    def _forget(self, started: Started) -> None:
        if started.forked is not None:
            started.forked.close()
        elif started.is_strict:
            strict.bury(started.container_id, started.companions, self._runtime_dir)
        else:
            self.call_runtime(started, "delete", "--force", started.container_id, check=False)

    def expected(self, started: Started) -> verifier.Expected:
        """What it must be when it is looked at from outside."""
        assert started.wanted is not None
        init = self.init.stat()
        return verifier.expected_of(
            started.wanted,
            groups=started.group.endings,
            host=self.admission.host,
            staged=started.staged,
            interfaces=("lo",) if started.port is None else ("lo", INTERFACE),
            program=(init.st_dev, init.st_ino),
        )

    def undo(self, started: Started) -> None:
        if started.pidfd >= 0:
            kill_child(started.pidfd, started.pid)
            os.close(started.pidfd)
        kill_and_wait(started.group.processes())
        self._forget(started)
        self.remove(started)

    def remove(self, started: Started) -> None:
        """Remove what is left of a container none of whose processes runs."""
        if started.port is not None:
            self.network.detach(started.port)
        if not started.group.remove():
            kill_and_wait(started.group.processes())
            started.group.remove()
        self.groups.weigh(started.container_id, None)
        self.admission.forget(started.container_id)
        shutil.rmtree(started.directory, ignore_errors=True)
        self.clean_upper(started)
        if not started.upper.durable:
            remove_tree(started.upper.parent)

    def prepare(self, spec: ContainerSpec) -> Started:
        """The names of what a container will have; nothing is made."""
        if spec.upper is None:
            upper = Upper(self._scratch_dir / spec.container_id, "upper", "work", durable=False)
        else:
            upper = Upper(spec.upper.parent, spec.upper.name, f".work-{spec.container_id}", durable=True)
        container_id = spec.container_id
        is_strict = self._is_strict and strict.is_meant(spec)
        return Started(container_id, self._containers_dir / container_id, upper, self.groups.of(container_id), is_strict=is_strict)

    def reserve(self, spec: ContainerSpec, started: Started) -> None:
        """Make its directories and files, and take an address unless it has one."""
        started.directory.mkdir(mode=0o711)
        _make_upper(started.upper)
        if not spec.block_network and started.port is None:
            started.port = self.network.take_port()
        self._write_own_files(started)
        started.points = self._points.of(spec)

    def limit(self, spec: ContainerSpec, started: Started) -> None:
        """Set its limits, and its weight among the others."""
        limits = cgroups.Limits(
            spec.milli_cpu, spec.milli_cpu_limit, spec.memory_limit_mib, spec.pids_limit, spec.memory_request_mib
        )
        started.group.create(limits)
        self.groups.weigh(spec.container_id, spec.milli_cpu)

    def _write_own_files(self, started: Started) -> None:
        resolver = dns.read_resolv_conf()
        lines = [f"nameserver {self.network.link_local}"]
        if resolver.search:
            lines.append("search " + " ".join(resolver.search))
        address = "127.0.1.1" if started.port is None else started.port.address
        texts = {
            "hosts": f"127.0.0.1\tlocalhost\n{address}\t{started.container_id}\n",
            "hostname": f"{started.container_id}\n",
            "resolv.conf": "\n".join(lines) + "\n",
        }
        for name, text in texts.items():
            file = os.open(f"{started.directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                os.write(file, text.encode())
                os.fchown(file, self.ids.first, self.ids.first)
            finally:
                os.close(file)

    def furnish(self, spec: ContainerSpec, started: Started) -> bundle.Bundle:
        """Inside the stage's `private`: put the root file system together, and what goes into it beside."""
        if (disk_mib := spec.disk_limit_mib or self._disk_mib) and not started.upper.durable:
            with started.step("disk"):
                disk.limit(started.upper.parent, disk_mib)
                _make_upper(started.upper)
        with started.step("overlay"):
            own = started.directory / "points"  # that nobody else has, where there are any
            points = (started.points, own) if own.is_dir() else (started.points,)
            self.stage.mount_root((*points, *spec.layers), started.upper)
            self.on_root(spec, self.stage.root)
            user = find_user(spec.user, self.stage.root)
            _require_program(spec, self.stage.root)
            if spec.links:
                with self.stage.as_container_root():
                    place_links(self.stage.root, spec.links)
        with started.step("binds"):
            ours = (bundle.INIT_TARGET, *OWN_FILES)
            targets = resolved(self.stage.root, (*ours, *(bind.target for bind in spec.binds)))
            binds = [bundle.BindMount(self.init, targets[0], True)]
            for target, place in zip(OWN_FILES, targets[1:], strict=False):
                name = Path(target).name
                binds.append(bundle.BindMount(self.stage.show(started.directory / name, name), place, False))
            for index, bind in enumerate(spec.binds):
                target = bind.target if bind.is_device else targets[len(ours) + index]
                binds.append(bundle.BindMount(self.stage.bind_source(bind, index), target, bind.read_only, bind.is_device))
            started.staged = at((self.stage.root, *(bind.source for bind in binds)))
        started.wanted = bundle.Bundle(
            hostname=spec.container_id,
            root=self.stage.root,
            args=spec.args,
            env=spec.env,
            cwd=spec.cwd,
            user=user,
            ids=self.ids,
            binds=tuple(binds),
            sysctls=self.sysctls,
            hooks=spec.hooks,
            open_files_hard=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        )
        return started.wanted

    def create(self, started: Started, config: dict[str, Any], stdout: int, stderr: int, *, readable: bool = False) -> None:
        """Inside the stage's `private`: have the OCI runtime make what this document says; its program does not run yet."""
        fd = os.open(started.directory / "config.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:  # holds the secrets of the environment
            json.dump(config, file)
            if readable:
                os.fchown(file.fileno(), self.ids.first, self.ids.first)
        with started.step("oci create"):
            pid_file = started.directory / "pid"
            arguments = ("--bundle", str(started.directory), "--pid-file", str(pid_file), started.container_id)
            self.call_runtime(started, "create", *arguments, stdout=stdout, stderr=stderr, group=started.group)
            started.pid = int(pid_file.read_text())
            started.pidfd = os.pidfd_open(started.pid)  # it is our child: even if it has ended, the number is still its own

    def _create(self, spec: ContainerSpec, started: Started, stdout: int, stderr: int) -> None:
        wanted = self.furnish(spec, started)
        for pipe in (stdout, stderr):  # so that /dev/stdout can be opened anew
            os.fchown(pipe, self.ids.first + wanted.user.uid, self.ids.first + wanted.user.gid)
        # Some hooks run as the container's root, and read the document to find its file system.
        document = strict.document(bundle.config(wanted)) if started.is_strict else bundle.config(wanted)
        self.create(started, document, stdout, stderr, readable=bool(spec.hooks))

    def _connect(self, started: Started) -> None:
        # Takes about as long as the network, so both at once. A strict one's users are known to gVisor only.
        share = None if started.is_strict else kernel_shares.Share(started.pid)
        namespace = os.open(f"/proc/{started.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if started.port is None:
                self.network.attach_nothing(namespace)
            else:
                self.network.attach(started.port, namespace)
        finally:
            os.close(namespace)
            if share is not None:
                share.settle()

    def call_runtime(
        self,
        started: Started,
        *arguments: str,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        group: cgroups.Group | None = None,
        stdin: int = -1,
        check: bool = True,
    ) -> None:
        """Run the OCI runtime's command; raises PilotlightError with what its log says."""
        log_path = started.directory / "oci.log"
        if started.is_strict:
            command = [*strict.command(self._runtime_dir, log_path), *arguments]
        else:
            command = [self._runtime, "--root", str(self._runtime_dir), "--log", str(log_path), "--log-format", "json"]
            command += ["--cgroup-manager=disabled", *arguments] if Path(self._runtime).name == "crun" else arguments
        environment = {"PATH": bundle.DEFAULT_PATH}
        if group is not None:
            # The shell steps into the groups and becomes the runtime: what it forks is inside from its first instruction on.
            environment["GROUPS_TO_JOIN"] = " ".join(str(entrance) for entrance in group.entrances)
            command = ["/bin/sh", "-c", _STEP_IN, "sh", *command]
        # An empty pipe, not /dev/null: crun changes the owner of its stdin, and that would be the host's device.
        empty, nobody = os.pipe2(os.O_CLOEXEC)
        os.close(nobody)
        given = empty if stdin < 0 else stdin
        try:
            result = subprocess.run(command, stdin=given, stdout=stdout, stderr=stderr, env=environment, check=False)
        finally:
            os.close(empty)
        if result.returncode and check:
            raise errors.PilotlightError(
                f"Container {started.container_id} could not be started: {_last_error(log_path) or 'no reason was given'} "
                f"({self._runtime} {arguments[0]} ended with code {result.returncode}). `pilotlight doctor` tells what is missing.",
                command=command,
            )


def _make_upper(upper: Upper) -> None:
    for name in (upper.name, upper.work):
        (upper.parent / name).mkdir(parents=True, exist_ok=True)


def _require_program(spec: ContainerSpec, root: Path) -> None:
    """The init could only say that something was not found; here we still know what, and where it was sought."""
    if not spec.args:
        raise errors.InvalidInput(f"Container {spec.container_id} has no command to run.")
    name = spec.args[0]
    search = spec.env.get("PATH", bundle.DEFAULT_PATH).split(":")
    cwd = PurePosixPath(spec.cwd or "/")
    for candidate in [str(cwd / name)] if "/" in name else [str(cwd / entry / name) for entry in search]:
        if any(candidate.startswith(bind.target) for bind in spec.binds):
            return  # not there yet to be looked at
        with contextlib.suppress(OSError):
            os.close(syscalls.open_in_root(root, candidate))
            return
    where = "there is no such file" if "/" in name else f"it is in none of {':'.join(search)}"
    raise errors.InvalidInput(
        f"The image has no program {name!r}: {where}. Install it in the image, or set its PATH or entrypoint to where it is."
    )


def _find_init() -> Path:
    for path in INIT_PATHS:
        if path.exists():
            return path
    raise errors.PilotlightError("The init for containers is missing. Install it: apt-get install catatonit")


def _last_error(log_path: Path) -> str:
    """What the runtime's log says went wrong."""
    try:
        lines = log_path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            return line
        if isinstance(entry, dict) and entry.get("msg"):
            return str(entry["msg"])
    return ""
