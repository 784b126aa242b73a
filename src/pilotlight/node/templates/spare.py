"""A spare child of a template: the first process of a container that is not known yet.

Owns one invariant: a spare has its namespaces, its network and its control groups, and nothing of any function. What it becomes is
decided by `warm`. All calls block: use them on the set-up threads.
"""

import itertools
import os
import select
import signal
from dataclasses import dataclass, replace

from pilotlight.node import cgroups
from pilotlight.node.killing import kill_and_wait, kill_held
from pilotlight.node.network import Port
from pilotlight.node.setup import Setup
from pilotlight.node.templates.channel import Channel, TemplateFault
from pilotlight.node.templates.template import Template

KILLED = 128 + signal.SIGKILL
MOST_CODE = 255
PIDS = 16  # until it becomes a container: it has two
MEMORY_BYTES = 192 << 20  # and what it has written of what it shares with its template
_numbers = itertools.count(1)


@dataclass
class Spare:
    """One of them. `pid` is the process's on this machine."""

    template: Template
    channel: Channel
    group: cgroups.Group
    port: Port | None = None
    network: int = -1
    owner: int = 0  # its root's id on this machine
    pid: int = 0
    pidfd: int = -1
    program: int = 0  # the pid of the process that runs the function, once there is one

    @property
    def is_alive(self) -> bool:
        """Whether it still waits."""
        poll = select.poll()  # it is not our child: its end is known by its pidfd alone
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    def exit_code(self) -> int:
        """Of the program that it became the init of; it says so itself, unless it was killed."""
        code = self.channel.last_words().get("exit")
        return code if isinstance(code, int) and 0 <= code <= MOST_CODE else KILLED

    def close(self) -> None:
        """Close what only the agent has of it; safe to repeat."""
        self.channel.close()
        if self.network >= 0:
            os.close(self.network)
            self.network = -1


def make_spare(setup: Setup, template: Template) -> Spare:
    """Fork one and wait until it is one. Raises PilotlightError or OSError, with everything undone."""
    network = template.make_network()
    try:
        channel = template.fork(network)
    except BaseException:
        os.close(network)
        raise
    spare = Spare(template, channel, setup.groups.of(f"spare-{next(_numbers)}"), network=network, owner=setup.ids.first)
    try:
        spare.group.create(cgroups.Limits(pids=PIDS, memory_mib=MEMORY_BYTES >> 20))
        setup.network.tune(network, _sysctls(setup))
        spare.port = setup.network.take_port()
        setup.network.attach(spare.port, network)
        _, pid = channel.receive("born")
        spare.pid, spare.pidfd = pid, _own_child(template, pid)
        spare.group.take_in(spare.pid)
        channel.patience = replace(channel.patience, processes=spare.group.processes)
        channel.receive("staged")
        channel.send({"program": template.pages.of_program, "init": template.pages.of_init})
        channel.receive("spare")
    except ProcessLookupError as error:
        discard(setup, spare)
        raise TemplateFault(f"A fork of it ended at once: {error}.") from error
    except BaseException:
        discard(setup, spare)
        raise
    return spare


def _own_child(template: Template, pid: int) -> int:
    """A pidfd of a process of the template: by a number alone it might be anybody, whom we would then move, bound and kill."""
    pidfd = os.pidfd_open(pid)
    if not template.started.group.has(pid):
        os.close(pidfd)
        raise TemplateFault(f"What says that it was forked, process {pid}, is no process of it.")
    return pidfd


def discard(setup: Setup, spare: Spare) -> None:
    """Remove it and all that it holds."""
    spare.close()
    if spare.pidfd >= 0:
        kill_held({spare.pidfd: spare.pid})
        os.close(spare.pidfd)
        spare.pidfd = -1
    if spare.port is not None:
        setup.network.detach(spare.port)
        spare.port = None
    kill_and_wait(spare.group.processes())
    spare.group.remove()


def _sysctls(setup: Setup) -> dict[str, str]:
    # The kernel reads these group ids as the writer's.
    ids = setup.ids
    return {**setup.sysctls, "net.ipv4.ping_group_range": f"{ids.first} {ids.first + ids.count - 1}"}
