"""Outputs on their way up, kept until the server says that they are stored.

Invariant: what a container has sent is sent again after each loss of the link until the server confirms it; a request that the
container repeats is sent once.
"""

import asyncio
from dataclasses import dataclass, field

from pilotlight.wire import platform_pb2

Key = frozenset[tuple[str, int]]
"""What a request answers: input ids and attempts."""


@dataclass(slots=True, eq=False)
class Answer:
    """One FunctionPutOutputs. `stored` is done when the server has it on disk."""

    key: Key
    event: platform_pb2.NodeEvent
    stored: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def input_ids(self) -> list[str]:
        return [input_id for input_id, _ in self.key]


class Answers:
    """Unconfirmed outputs of one container."""

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._last_batch = 0
        self._by_batch: dict[int, Answer] = {}
        self._by_key: dict[Key, Answer] = {}

    def find(self, key: Key) -> Answer | None:
        """The unconfirmed answer to exactly these inputs."""
        return self._by_key.get(key)

    def add(self, key: Key, request: bytes) -> Answer:
        """A new answer; its event is for the caller to send."""
        self._last_batch += 1
        outputs = platform_pb2.Outputs(task_id=self._task_id, batch=self._last_batch, request=request)
        answer = Answer(key, platform_pb2.NodeEvent(outputs=outputs))
        self._by_batch[self._last_batch] = self._by_key[key] = answer
        return answer

    def __len__(self) -> int:
        return len(self._by_batch)

    def get(self, batch: int) -> Answer | None:
        """An unconfirmed answer by its number."""
        return self._by_batch.get(batch)

    def settle(self, batch: int) -> Answer | None:
        """The server has stored a batch; None where it has said so before."""
        answer = self._by_batch.pop(batch, None)
        if answer is not None:
            self._by_key.pop(answer.key, None)
            if not answer.stored.done():
                answer.stored.set_result(None)
        return answer

    def unconfirmed(self) -> list[platform_pb2.NodeEvent]:
        """To be sent again, oldest first."""
        return [answer.event for answer in self._by_batch.values()]
