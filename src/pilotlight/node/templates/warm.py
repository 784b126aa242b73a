"""From a spare child of a template to a running container.

Owns one invariant: a container gets its arguments' values, secrets and working directory only after the outside check has found it
to be what a container of an OCI runtime is. What fails is undone, and the caller starts an ordinary one. Blocks: use it on the
set-up threads.
"""

import contextlib
import functools
import itertools
import json
import os
import time
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pilotlight.core.containers import ContainerSpec
from pilotlight.node import bundle, kernel_shares, seccomp, syscalls
from pilotlight.node.killing import kill_child
from pilotlight.node.setup import Setup, Started
from pilotlight.node.templates import confinement
from pilotlight.node.templates.channel import TemplateFault, link_of
from pilotlight.node.templates.spare import Spare
from pilotlight.node.tracing import Held

TOPS_KEPT = 4096  # layers of mounts whose directories are known
MOST_CHANGED = 64  # paths; where there are more, everything may have changed
MOST_CHANGED_BYTES = 32 << 10  # of them: they are told in one message, with the environment
EVERYWHERE = "/"


def start(setup: Setup, spec: ContainerSpec, spare: Spare, stdout: int, stderr: int) -> Started:
    """Make it this container. Raises PilotlightError or OSError, with everything undone, the spare included."""
    started = setup.prepare(spec)
    started.group, started.port, started.pid, started.pidfd, started.forked = spare.group, spare.port, spare.pid, spare.pidfd, spare
    try:
        with started.step("directories"):
            if spec.block_network and spare.port is not None:
                setup.network.detach(spare.port)
                started.port = spare.port = None
            setup.reserve(spec, started)
        with started.step("cgroups"):
            started.group.free_memory()
            setup.limit(spec, started)
        with setup.stage.private(gone_later=True):
            with started.step("create"):
                wanted = setup.furnish(spec, started)
                with started.step("attach"):
                    tree = _whole_tree(setup, wanted, spare.network)
            with started.step("enter"):
                spare.program, inside_ms, given = _enter(spec, spare, tree, stdout, stderr)
            started.setup_ms.update(inside_ms)
            for pid in (spare.pid, spare.program):
                kernel_shares.lower_limits(pid)
            with started.step("verify"):
                _verify(setup, spare, started, given)
            with started.step("hand over"):
                env = {"PATH": bundle.DEFAULT_PATH, "HOME": wanted.user.home, **spec.env}
                message = {"env": env, "cwd": spec.cwd or "/", "changed": _changed(spec, wanted)}
                started.told_ns = time.time_ns()  # before it may speak: this thread may have to wait for its next turn
                spare.channel.send(message)
    except BaseException:
        setup.undo(started)
        raise
    return started


def _changed(spec: ContainerSpec, wanted: bundle.Bundle) -> list[str]:
    """Paths at, below or above which its file system may be another than the template's."""
    own = spec.layers[len(spec.recipe.layers) if spec.recipe is not None else 0 :]
    tops = itertools.chain.from_iterable(tops_of(layer) for layer in own)
    return few(itertools.chain((bind.target for bind in wanted.binds), (link.path for link in spec.links), tops))


def few(paths: Iterable[str]) -> list[str]:
    """These, or what holds all of them if they are more than can be told."""
    found = list(itertools.islice(dict.fromkeys(paths), MOST_CHANGED + 1))
    return [EVERYWHERE] if len(found) > MOST_CHANGED or len(json.dumps(found)) > MOST_CHANGED_BYTES else found


@functools.lru_cache(maxsize=TOPS_KEPT)
def tops_of(layer: Path) -> tuple[str, ...]:
    """A few paths below which all of a layer is, which never changes: "/root" where there are /root/a.py and /root/b/c.py."""
    entries = list(itertools.islice(layer.iterdir(), MOST_CHANGED + 1))
    return (EVERYWHERE,) if len(entries) > MOST_CHANGED else tuple(f"/{_top(entry).relative_to(layer)}" for entry in entries)


def _top(path: Path) -> Path:
    """The directory as far down as there is nothing beside it."""
    while path.is_dir() and not path.is_symlink():
        inside = list(itertools.islice(path.iterdir(), 2))
        if len(inside) != 1 or not inside[0].is_dir():
            break
        path = inside[0]
    return path


def _whole_tree(setup: Setup, wanted: bundle.Bundle, network: int) -> int:
    """Inside the stage's `private`: attach what belongs below the root; returns a descriptor of a copy of all of it."""
    root = os.open(wanted.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for bind in wanted.binds:
            target = syscalls.open_path_in_root(root, bind.target)
            try:
                flags = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
                syscalls.bind(bind.source, target, attributes=flags | (syscalls.MOUNT_ATTR_RDONLY if bind.read_only else 0))
            finally:
                os.close(target)
        system = os.open("sys", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
        try:
            setup.network.mount_system(network, f"/proc/self/fd/{system}")
        finally:
            os.close(system)
        owner = f"size=0k,uid={wanted.ids.first},gid={wanted.ids.first}"
        for path in bundle.MASKED:  # what is below the mount is the kernel's, and leads nowhere else
            if path.startswith("/sys/") and Path(path).is_dir():
                syscalls.mount("tmpfs", f"{wanted.root}{path}", "tmpfs", options=owner)
                syscalls.mount(None, f"{wanted.root}{path}", None, syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY)
    finally:
        os.close(root)
    return syscalls.clone_tree(wanted.root)


def _enter(spec: ContainerSpec, spare: Spare, tree: int, stdout: int, stderr: int) -> tuple[int, dict[str, float], frozenset[str]]:
    """Give it its file system and output; returns the pid of the program's process, which waits, what took how many ms, and the
    links of all files that it may have open."""
    stdin, nobody = os.pipe2(os.O_CLOEXEC)
    os.close(nobody)
    given = frozenset((*map(link_of, (stdin, stdout, stderr)), spare.channel.other_end))
    try:
        for pipe in (stdin, stdout, stderr):  # so that /dev/stdout can be opened anew
            os.fchown(pipe, spare.owner, spare.owner)
        spare.channel.patience = spare.channel.patience.from_now()
        spare.channel.send({"hostname": spec.container_id}, [tree, stdin, stdout, stderr])
    finally:
        os.close(stdin)
        os.close(tree)
    said: dict[str, Any] = {}
    program = 0
    for _ in range(2):  # its two processes, in any order
        answer, pid = spare.channel.receive()
        said |= answer
        program = pid if "program" in answer else program
    if program == spare.pid:
        raise TemplateFault("One process says that it is both its init and its program.")
    if not program or "init" not in said:
        raise TemplateFault(f"It did not become a container: {said.get('error') or 'no reason was given'}.")
    if not spare.group.has(program):  # by a number alone it might be anybody, whom we would then bound, stop and kill
        raise TemplateFault(f"What says that it is its program, process {program}, is no process of it.")
    if said.get("shadowed"):
        raise TemplateFault(f"Files of the program are named like modules that are loaded: {said['shadowed']}.")
    took = said.get("took_ms")
    steps = took.items() if isinstance(took, dict) else ()
    return program, {f"inside: {name}": float(ms) for name, ms in steps if isinstance(ms, int | float)}, given


def _verify(setup: Setup, spare: Spare, started: Started, given: frozenset[str]) -> None:
    """Look at both of its processes, which tell us their own numbers: only theirs have `given` open. Raises NotIsolated."""
    expected = replace(
        setup.expected(started),
        filters=(confinement.program(), seccomp.program()),
        from_runtime=False,
        program=None,
        descriptors=given,
        user_parent=spare.template.user_namespace,
        user_owner=setup.ids.first,
        read_from=spare.template.devices,
    )
    with _held(spare.pid) as init, _held(spare.program) as program:
        setup.admission.admit(
            started.container_id,
            program,
            expected,
            started.group,
            init=init,
            apart_from=(spare.template.pid,),
            outside=spare.template.started.group,
        )


@contextlib.contextmanager
def _held(pid: int) -> Generator[Held]:
    """A process that stands still; one that was killed for an error is nobody's zombie afterwards."""
    is_held = False
    try:
        with Held(pid) as held:
            is_held = True
            held.stop()
            yield held
    except BaseException:
        if is_held:
            _bury(pid)
        raise


def _bury(pid: int) -> None:
    """See to the end of what this thread traces, and has killed: its tracer hears of it before its parent does."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)  # still its own: nobody else can have buried it
        try:
            kill_child(pidfd, pid)
        finally:
            os.close(pidfd)
