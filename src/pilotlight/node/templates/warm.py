"""From a spare child of a template to a running container.

Owns one invariant: a container gets its arguments' values, secrets and working directory only after the outside check has found it
to be what a container of an OCI runtime is. What fails is undone, and the caller starts an ordinary one. Blocks: use it on the
set-up threads.
"""

import contextlib
import os
from collections.abc import Generator
from dataclasses import replace

from pilotlight.core.containers import ContainerSpec
from pilotlight.core.errors import NotIsolated
from pilotlight.node import bundle, kernel_shares, observed, seccomp, syscalls, verifier
from pilotlight.node.setup import Setup, Started
from pilotlight.node.templates import confinement
from pilotlight.node.templates.channel import TemplateFault
from pilotlight.node.templates.spare import Spare
from pilotlight.node.tracing import Held


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
            setup.limit(spec, started)
        with started.step("create"), setup.stage.private():
            wanted = setup.furnish(spec, started)
            with started.step("attach"):
                tree = _whole_tree(wanted)
        for pipe in (stdout, stderr):  # so that /dev/stdout can be opened anew
            os.fchown(pipe, setup.ids.first, setup.ids.first)
        with started.step("enter"):
            program = _enter(spec, spare, tree, stdout, stderr)
        with started.step("verify"):
            _verify(setup, spare, started, program)
        with started.step("hand over"):
            env = {"PATH": bundle.DEFAULT_PATH, "HOME": wanted.user.home, **spec.env}
            spare.channel.send({"env": env, "cwd": spec.cwd or "/"})
    except BaseException:
        setup.undo(started)
        raise
    return started


def _whole_tree(wanted: bundle.Bundle) -> int:
    """Inside the stage's `private`: attach the binds below the root; returns a descriptor of a copy of all of it."""
    root = os.open(wanted.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for bind in wanted.binds:
            target = syscalls.open_path_in_root(root, bind.target)
            try:
                flags = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
                syscalls.bind(bind.source, target, attributes=flags | (syscalls.MOUNT_ATTR_RDONLY if bind.read_only else 0))
            finally:
                os.close(target)
    finally:
        os.close(root)
    return syscalls.clone_tree(wanted.root)


def _enter(spec: ContainerSpec, spare: Spare, tree: int, stdout: int, stderr: int) -> int:
    """Give it its file system and output; returns the pid of the program's process, which waits."""
    stdin, nobody = os.pipe2(os.O_CLOEXEC)
    os.close(nobody)
    try:
        plan = {
            "hostname": spec.container_id,
            "capabilities": verifier.mask_of(bundle.DEFAULT_CAPABILITIES),
            "user_limits": kernel_shares.user_limits(),
            "filter": seccomp.program().hex(),
        }
        spare.channel.send(plan, [tree, stdin, stdout, stderr])
    finally:
        os.close(stdin)
        os.close(tree)
    answer, pid = spare.channel.receive("program")
    kernel_shares.lower_limits(pid)
    if answer.get("shadowed"):
        raise TemplateFault(f"Files of the program are named like modules that are loaded: {answer['shadowed']}.")
    return pid


def _verify(setup: Setup, spare: Spare, started: Started, program: int) -> None:
    """Look at both of its processes; raises NotIsolated."""
    expected = replace(
        setup.expected(started),
        filters=(confinement.program(), seccomp.program()),
        from_runtime=False,
        program=None,
        user_parent=spare.template.user_namespace,
        user_owner=setup.ids.first,
        read_from=spare.template.devices,
    )
    with _held(program) as held:
        setup.admission.admit(started.container_id, held, expected, started.group, members=(spare.pid,))
    with _held(spare.pid) as held:
        init = observed.observe(spare.pid, held=held, memory=True)
        if found := verifier.faults(init, expected):
            raise NotIsolated(
                f"The init of container {started.container_id} is not isolated: {'; '.join(found)}.", faults=tuple(found)
            )


@contextlib.contextmanager
def _held(pid: int) -> Generator[Held]:
    """A process that stands still; one that was killed for an error is nobody's zombie afterwards."""
    try:
        with Held(pid) as held:
            held.stop()
            yield held
    except BaseException:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED)  # its tracer, this thread, hears of its end before its parent does
        raise
