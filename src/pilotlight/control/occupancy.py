"""What is taken of each node, kept up to date container by container instead of being counted anew for each decision."""

from dataclasses import dataclass

from pilotlight.control.live import LiveTask
from pilotlight.control.nodes import Nodes, NodeSession
from pilotlight.core.placement import NodeView
from pilotlight.core.tasks import TaskState


@dataclass(slots=True, eq=False)
class _Seats:
    """The containers of one node, connected or not."""

    tasks: set[LiveTask]
    starting: set[LiveTask]
    milli_cpu: int = 0
    memory_mib: int = 0


class Occupancy:
    """Which containers take which part of which node. Lives on the event loop's thread.

    Invariant: a container has its part from the decision on until its processes are gone, even while its node is away.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._seats: dict[str, _Seats] = {}
        self._views: dict[str, tuple[NodeSession, NodeView]] = {}
        self.containers = 0
        self.freed = 0  # grows whenever there may be room where there was none: who found none may look again
        nodes.gpus.on_change.append(self._gpus_changed)

    def take(self, task: LiveTask) -> None:
        """A container has its place."""
        seats = self._seats.get(task.node_id)
        if seats is None:
            seats = self._seats[task.node_id] = _Seats(set(), set())
        if task in seats.tasks:
            return
        self.containers += 1
        seats.tasks.add(task)
        seats.milli_cpu += task.milli_cpu
        seats.memory_mib += task.memory_mib
        if task.state is TaskState.STARTING:
            seats.starting.add(task)
        self._show(task.node_id, seats)

    def release(self, task: LiveTask) -> None:
        """A container is gone. Does nothing for one that has no place."""
        seats = self._seats.get(task.node_id)
        if seats is None or task not in seats.tasks:
            return
        self.containers -= 1
        self.freed += 1
        seats.tasks.discard(task)
        seats.starting.discard(task)
        seats.milli_cpu -= task.milli_cpu
        seats.memory_mib -= task.memory_mib
        self._show(task.node_id, seats)
        if not seats.tasks:
            del self._seats[task.node_id]

    def begun(self, task: LiveTask) -> None:
        """A container starts no longer: another may."""
        seats = self._seats.get(task.node_id)
        if seats is not None and task in seats.starting:
            seats.starting.discard(task)
            self.freed += 1
            self._show(task.node_id, seats)

    def cordon_changed(self, node_id: str) -> None:
        """A node takes nothing new, or takes it again."""
        if (known := self._views.get(node_id)) is not None:
            known[1].cordoned = node_id in self._nodes.cordoned
        self.freed += 1

    def views(self) -> list[NodeView]:
        """What placement needs to know of each connected node."""
        sessions = self._nodes.all()
        for session in sessions:
            known = self._views.get(session.node_id)
            if known is None or known[0] is not session:
                self._join(session)
        if len(self._views) > len(sessions):
            here = {session.node_id for session in sessions}
            for node_id in [node_id for node_id in self._views if node_id not in here]:
                del self._views[node_id]
        for node_id, (_, view) in self._views.items():
            is_cordoned = node_id in self._nodes.cordoned
            self.freed += view.cordoned and not is_cordoned
            view.cordoned = is_cordoned
        return [view for _, view in self._views.values()]

    def _join(self, session: NodeSession) -> None:
        view = NodeView(
            node_id=session.node_id,
            milli_cpu=session.milli_cpu,
            memory_mib=session.memory_mib,
            max_containers=session.max_containers,
            max_starting=session.max_starting,
            labels=dict(session.labels),
            cordoned=session.node_id in self._nodes.cordoned,
        )
        self._count_gpus(view)
        self._views[session.node_id] = (session, view)
        self.freed += 1
        if (seats := self._seats.get(session.node_id)) is not None:
            self._show(session.node_id, seats)

    def _show(self, node_id: str, seats: _Seats) -> None:
        if (known := self._views.get(node_id)) is not None:
            view = known[1]
            view.used_milli_cpu, view.used_memory_mib = seats.milli_cpu, seats.memory_mib
            view.containers, view.starting = len(seats.tasks), len(seats.starting)

    def _count_gpus(self, view: NodeView) -> None:
        gpus = self._nodes.gpus
        view.gpus, view.free_gpus = gpus.totals(view.node_id), gpus.free(view.node_id)
        view.failed_gpus = gpus.failed(view.node_id)

    def _gpus_changed(self, node_id: str) -> None:
        self.freed += 1
        if (known := self._views.get(node_id)) is not None:
            self._count_gpus(known[1])
