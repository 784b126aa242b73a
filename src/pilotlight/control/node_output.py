"""What containers print, as their nodes send it: taken once, and confirmed when it is on disk.

Invariant: a batch whose lines are on disk is on record there as well, in the same transaction; so what a node sends again, to this
server or to the one after it, is never taken twice, and what it forgets was never lost.
"""

from dataclasses import dataclass

from pilotlight.control.nodes import Nodes, NodeSession
from pilotlight.control.output_log import OutputLog, Printed
from pilotlight.control.tasks import Tasks
from pilotlight.wire import platform_pb2


@dataclass(slots=True)
class _Receipt:
    """Of one node: the last batch that was taken, and the last that is on disk."""

    epoch: str
    received: int = 0
    stored: int = 0


class NodeOutput:
    """Lives on the event loop's thread."""

    def __init__(self, *, tasks: Tasks, nodes: Nodes, output_log: OutputLog) -> None:
        self._tasks = tasks
        self._nodes = nodes
        self._output_log = output_log
        self._receipts: dict[str, _Receipt] = {}
        output_log.on_receipt = self._stored

    async def restore(self) -> None:
        """Read what is on disk of each node."""
        for node_id, epoch, number in await self._output_log.receipts():
            self._receipts[node_id] = _Receipt(epoch, number, number)

    def take(self, session: NodeSession, batch: platform_pb2.LogBatch) -> None:
        """Keep a batch, unless it was here before; its node is told once it is on disk."""
        if batch.number and not self._is_new(session, batch.number):
            return
        by_task: dict[str, list[Printed]] = {}
        for line in batch.lines:
            printed = Printed(line.file_descriptor, line.data, line.at_ns / 1e9, line.call_id, line.input_id)
            by_task.setdefault(line.task_id, []).append(printed)
        for task_id, lines in by_task.items():
            if (task := self._tasks.get(task_id)) is not None:
                function = task.pool.function
                self._output_log.append(function.app_id, function.function_id, task_id, lines, function.parent_id or "")
        if batch.number:
            self._output_log.keep_receipt(session.node_id, session.log_epoch, batch.number)

    async def exited(self, event: platform_pb2.TaskExited) -> None:
        """A container's end goes on record after its last words: lines of a task that has ended are of nobody's interest."""
        await self._output_log.settled()
        await self._tasks.exited(event)

    def _is_new(self, session: NodeSession, number: int) -> bool:
        receipt = self._receipts.get(session.node_id)
        if receipt is None or receipt.epoch != session.log_epoch:
            receipt = self._receipts[session.node_id] = _Receipt(session.log_epoch)
        if number <= receipt.received:
            if number <= receipt.stored:  # the confirmation was lost with the stream before this one
                self._confirm(session.node_id, receipt.stored)
            return False
        receipt.received = number
        return True

    def _stored(self, node_id: str, epoch: str, number: int) -> None:
        receipt = self._receipts.get(node_id)
        if receipt is not None and receipt.epoch == epoch:
            receipt.stored = number
            self._confirm(node_id, number)

    def _confirm(self, node_id: str, number: int) -> None:
        self._nodes.send_along(node_id, platform_pb2.NodeCommand(logs_stored=platform_pb2.LogsStored(number=number)))
