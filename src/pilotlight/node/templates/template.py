"""One template: a container of ours in which the image's Python waits to be forked.

Owns one invariant: a template is made, confined and looked at before it runs anything of the image, and it knows nothing of any
app: no secret, no argument, no mount of a function. Its first process is an idle init, so that the containers forked from it, whose
pid namespaces lie below its own, survive the interpreter's end. All calls block: use them on the set-up threads.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from pilotlight.core.containers import Bind, ContainerSpec, Recipe
from pilotlight.core.errors import NotIsolated
from pilotlight.node import bundle, kernel_shares, observed, seccomp, verifier
from pilotlight.node.killing import kill_all, kill_child
from pilotlight.node.setup import Setup, Started
from pilotlight.node.templates import confinement
from pilotlight.node.templates.channel import Channel, LoadFault, TemplateFault
from pilotlight.node.templates.pages import Pages
from pilotlight.node.templates.patience import MOST_TIMES, Patience
from pilotlight.node.templates.usher import Usher
from pilotlight.node.tracing import Held

log = structlog.get_logger()

PROGRAM = Path(__file__).with_name("program")
GUEST_PROGRAM = "/__pilotlight/warm"
STAGE = "/__pilotlight/stage"
STAGED = ("root", "dev", "proc", "sys")
LOAD_TIMEOUT_S = 45.0  # for what the image's modules do at import
ANSWER_TIMEOUT_S = 2.0
MOST_MS = 1000 * LOAD_TIMEOUT_S * MOST_TIMES
PIDS = 512
_TERMINALS = f"newinstance,ptmxmode=0666,mode=0620,gid=5,max={kernel_shares.TERMINALS}"
OUTPUT_BYTES = 4096  # of what it printed, for the log


@dataclass(frozen=True)
class Loaded:
    """What a template says of itself: the variables that were read by its imports, and what was not imported, and why: for what it
    does, or, `postponed`, because it could not be tried this time.
    """

    read: frozenset[str] = frozenset()
    failed: dict[str, str] = field(default_factory=dict[str, str])
    took_ms: float = 0.0
    postponed: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def said(cls, message: Mapping[str, Any]) -> "Loaded":
        """From its own words, which may be anything."""
        reasons = (_reasons(message.get(name)) for name in ("failed", "postponed"))
        return cls(_names(message.get("read")), next(reasons), _milliseconds(message.get("took_ms")), next(reasons))


class Template:
    """A running one."""

    def __init__(self, recipe: Recipe, started: Started, setup: Setup) -> None:
        self.recipe = recipe
        self.started = started
        self.loaded = Loaded()
        self.pages = Pages()  # that its children write while they begin
        self.user_namespace = 0  # inode: the one below which those of its children lie
        self.devices = frozenset[str]()  # on which its files are
        self.pid = 0
        self.pidfd = -1
        self._setup = setup
        self._channel: Channel | None = None
        self._usher: Usher | None = None
        self._output = -1
        self._process: dict[str, Any] = {}
        self._lock = threading.Lock()

    @classmethod
    def room(cls, setup: Setup, recipe: Recipe, number: int, memory_mib: int) -> "Template":
        """Make its container and start the interpreter in it. Raises PilotlightError, with everything undone."""
        spec = ContainerSpec(
            container_id=f"template-{number}",
            layers=recipe.layers,
            args=recipe.args,
            binds=(Bind(PROGRAM, GUEST_PROGRAM),),
            memory_limit_mib=memory_mib,
            pids_limit=PIDS,
            block_network=True,
        )
        template = cls(recipe, setup.prepare(spec), setup)
        try:
            template._make_room(spec)
            template._begin()
        except BaseException as error:
            template.close()
            if isinstance(error, OSError):
                raise TemplateFault(f"A template could not be set up: {error}.") from error
            raise
        return template

    def load(self) -> None:
        """Wait until it has imported what it should; any thread may wait. Raises LoadFault where that is why it failed, or another
        PilotlightError or OSError, with everything undone.
        """
        try:
            try:
                self._import()
            except (TemplateFault, NotIsolated) as error:
                raise LoadFault(str(error)) from error
            self._usher = Usher(self.started.pid, str(self.started.directory))
        except BaseException:
            if said := self._said():
                log.info("template.said", template=self.started.container_id, output=said)
            self.close()
            raise

    def _import(self) -> None:
        assert self._channel is not None
        self._channel.send({"modules": list(self.recipe.modules)})
        ready, _ = self._channel.receive("ready")
        if ready.get("threads") != 1:
            raise TemplateFault(f"What it imported began {ready.get('threads')} threads, which no fork has.")
        self.loaded = Loaded.said(ready)
        self._look()

    def _make_room(self, spec: ContainerSpec) -> None:
        """The container without the interpreter."""
        setup, started = self._setup, self.started
        setup.reserve(spec, started)
        for name in STAGED:
            (started.directory / "points" / f"{STAGE}/{name}".lstrip("/")).mkdir(parents=True)
        setup.limit(spec, started)
        with setup.stage.private():
            document = _confined(bundle.config(setup.furnish(spec, started)))
            setup.create(started, document, subprocess.DEVNULL, subprocess.DEVNULL)
        with Held(started.pid, follow_exec=True) as held:
            setup.call_runtime(started, "start", started.container_id)
            if not held.until_exec():
                raise TemplateFault("Its init ended at once.")
            setup.admission.admit(started.container_id, held, self._expected(), started.group)
        self.user_namespace = Path(f"/proc/{started.pid}/ns/user").stat().st_ino
        # As the kernel's list of mappings names them: the overlay, or before Linux 6.8 what is below it.
        places = {Path(f"/proc/{started.pid}/root").stat().st_dev, *(layer.stat().st_dev for layer in spec.layers)}
        self.devices = frozenset(f"{os.major(place):02x}:{os.minor(place):02x}" for place in places)
        self._process = document["process"]

    def _expected(self) -> verifier.Expected:
        """What its processes must be when they are looked at from outside: a container, but for what `confinement` lists."""
        expected = self._setup.expected(self.started)
        unmasked = tuple(mount for mount in expected.mounts if mount.point not in (*bundle.MASKED, *bundle.READ_ONLY))
        return replace(
            expected,
            mounts=unmasked,
            filters=(confinement.program(),),
            bounding=frozenset(confinement.CAPABILITIES),
            read_from=self.devices,
        )

    def _look(self) -> None:
        """Look at the interpreter once it has imported everything: what it is now, its children begin with. Raises NotIsolated."""
        expected = replace(self._expected(), program=None, from_runtime=False)
        with Held(self.pid) as held:
            held.stop()
            seen = observed.observe(self.pid, held=held, memory=True)
            found = verifier.faults(seen, expected)
            if strangers := self.started.group.processes() - {self.pid, self.started.pid}:
                found.append(f"what it imported began processes that still run: {sorted(strangers)}")
            if found:
                raise NotIsolated(f"A template is not isolated as it should be: {'; '.join(found)}.", faults=tuple(found))

    def _begin(self) -> None:
        """Start the interpreter."""
        setup, started, recipe = self._setup, self.started, self.recipe
        path = recipe.env.get("PYTHONPATH", "")
        env = {**recipe.env, "PYTHONPATH": f"{GUEST_PROGRAM}:{path}" if path else GUEST_PROGRAM}
        process = {**self._process, "args": list(recipe.args), "env": [f"{name}={value}" for name, value in env.items()]}
        process_file, pid_file = started.directory / "process.json", started.directory / "interpreter"
        process_file.write_text(json.dumps(process))
        self._channel, theirs = Channel.pair(Patience(LOAD_TIMEOUT_S, started.group.processes))
        self._output, output = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._output, False)
        try:
            arguments = ("--detach", "--pid-file", str(pid_file), "--process", str(process_file), started.container_id)
            setup.call_runtime(
                started, "exec", *arguments, stdin=theirs.fileno(), stdout=output, stderr=output, group=started.group
            )
        finally:
            theirs.close()
            os.close(output)
        self.pid = int(pid_file.read_text())
        self.pidfd = os.pidfd_open(self.pid)
        Path(f"/proc/{self.pid}/oom_score_adj").write_text(str(bundle.OOM_SCORE_ADJUST))  # its children take it over

    @property
    def is_alive(self) -> bool:
        """Whether the interpreter runs."""
        return self.pidfd >= 0 and not _has_ended(self.pidfd)

    def fork(self, network: int) -> Channel:
        """Ask for a child in this network namespace; what it says comes by the channel. Any thread may call."""
        ours = self._channel
        if ours is None:
            raise TemplateFault("It has ended.")
        channel, theirs = Channel.pair(Patience(ANSWER_TIMEOUT_S, self.started.group.processes).from_now())
        try:
            ours.send(_order(), [theirs.fileno(), network])
        except BaseException:
            channel.close()
            raise
        finally:
            theirs.close()
        return channel

    def make_network(self) -> int:
        """A descriptor of a network namespace that its children may enter."""
        with self._lock:
            if self._usher is None:
                raise TemplateFault("It has ended.")
            return self._usher.make()

    def memory_bytes(self) -> int:
        """What it has for itself now; nobody else is left in its container, but for forks on their way out."""
        try:
            text = Path(f"/proc/{self.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            return 0
        return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(("RssAnon:", "RssShmem:")))

    def kill(self) -> None:
        """Kill the interpreter; whoever waits for it notices at once, though what it tries in a fork has its socket, too.

        Safe to repeat.
        """
        with self._lock:
            if self._channel is not None:
                self._channel.hang_up()
            if self.pidfd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def end(self) -> None:
        """No more forks: the interpreter ends, its children live on. Safe to repeat."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()
                self._channel = None
            if self._usher is not None:
                self._usher.close()
                self._usher = None
        # Whoever else is left in there, hostile code began: it may trace the interpreter, or what the containers run.
        self.started.group.forbid_forks()
        kill_all(self.started.group.processes, but=self.started.pid)
        with self._lock:
            if self.pidfd >= 0:
                kill_child(self.pidfd, self.pid)
                os.close(self.pidfd)
                self.pidfd = -1
            if self._output >= 0:
                os.close(self._output)
                self._output = -1

    def close(self) -> None:
        """Remove it, and with it all of its children that still run."""
        self.end()
        self._setup.undo(self.started)

    def _said(self) -> str:
        """What it printed."""
        if self._output < 0:
            return ""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._output, OUTPUT_BYTES).decode(errors="replace")
        return ""


def _confined(document: dict[str, Any]) -> dict[str, Any]:
    """The bundle of a container as that of a template."""
    held = list(confinement.CAPABILITIES)
    process = {**document["process"], "args": [bundle.INIT_TARGET, "-P"]}
    process["capabilities"] = {"bounding": held, "effective": held, "permitted": held, "inheritable": [], "ambient": []}
    # A child may mount a proc of its own only where it sees one that hides nothing; it masks its own.
    linux = {**document["linux"], "seccomp": confinement.profile(), "maskedPaths": [], "readonlyPaths": []}
    return {**document, "root": {**document["root"], "readonly": True}, "process": process, "linux": linux}


def _order() -> dict[str, Any]:
    """What a child needs to know before it is any function's."""
    return {
        "masked": [path for path in bundle.MASKED if path.startswith("/proc/")],
        "read_only": list(bundle.READ_ONLY),
        "pts": _TERMINALS,
        "user_limits": kernel_shares.user_limits(),
        "capabilities": verifier.mask_of(bundle.DEFAULT_CAPABILITIES),
        "filter": seccomp.program().hex(),
    }


def _names(value: Any) -> frozenset[str]:
    return frozenset(map(str, value)) if isinstance(value, list) else frozenset()


def _reasons(value: Any) -> dict[str, str]:
    return {str(name): str(reason) for name, reason in value.items()} if isinstance(value, dict) else {}


def _milliseconds(value: Any) -> float:
    return float(value) if type(value) in (int, float) and 0 <= value <= MOST_MS else 0.0


def _has_ended(pidfd: int) -> bool:
    try:
        return os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
