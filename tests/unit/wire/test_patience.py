"""How much of what a client sends is looked at before others have their turn."""

import asyncio
import time

from pilotlight.wire.patience import MANY_REQUESTS, SLICE_BYTES, TURN_S, Patience, Watch


class Transport:
    """A connection that can be held."""

    def __init__(self) -> None:
        self.is_reading = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


def test_requests_behind_something_harmless_are_not_all_looked_at_in_one_turn() -> None:
    sent = b"." * (5 * SLICE_BYTES) + b"r" * (64 * SLICE_BYTES)  # each "r" is a request
    fed: list[bytes] = []

    async def scenario() -> None:
        transport = Transport()

        def feed(data: bytes) -> None:
            fed.append(data)
            for _ in range(data.count(b"r")):
                watch.requested()

        watch = Watch(Patience(), transport, feed, lambda data: None, lambda: False)
        watch.data_received(sent)
        begun = b"".join(fed)
        assert begun.count(b"r") < MANY_REQUESTS + SLICE_BYTES
        assert not transport.is_reading
        async with asyncio.timeout(30):
            while not transport.is_reading or len(b"".join(fed)) < len(sent):
                before = len(fed)
                await asyncio.sleep(0)
                assert b"".join(fed[before:]).count(b"r") < MANY_REQUESTS + SLICE_BYTES
        watch.close()

    asyncio.run(scenario())
    assert b"".join(fed) == sent


def test_a_large_message_is_taken_in_one_turn() -> None:
    fed: list[bytes] = []

    async def scenario() -> None:
        transport = Transport()
        watch = Watch(Patience(), transport, fed.append, lambda data: None, lambda: False)
        watch.data_received(bytes(64 * SLICE_BYTES + 1))
        assert transport.is_reading
        watch.close()

    asyncio.run(scenario())
    assert sum(map(len, fed)) == 64 * SLICE_BYTES + 1


def test_what_takes_long_to_look_at_is_not_all_looked_at_in_one_turn() -> None:
    """Frames that ask for nothing (PING, SETTINGS) are cheap to send, and each costs something."""
    fed: list[bytes] = []

    async def scenario() -> None:
        transport = Transport()

        def feed(data: bytes) -> None:
            fed.append(data)
            began = time.thread_time()
            while time.thread_time() < began + TURN_S:
                pass

        watch = Watch(Patience(), transport, feed, lambda data: None, lambda: False)
        watch.data_received(b"p" * (16 * SLICE_BYTES))
        assert 1 <= len(fed) <= 2
        assert not transport.is_reading
        async with asyncio.timeout(30):
            while not transport.is_reading or len(fed) < 16:
                before = len(fed)
                await asyncio.sleep(0)
                assert len(fed) - before <= 2
        watch.close()

    asyncio.run(scenario())
    assert len(b"".join(fed)) == 16 * SLICE_BYTES
