"""Requests whose clients were sent to wait on: they go on here, until somebody comes with their id.

Their responses stay where they are: what has no reader fills the connection to the node, and then the container waits.
"""

import asyncio
import re

from pilotlight.edge.exchange import Exchange, Left
from pilotlight.edge.refusals import Header, Refusal

CALL_ID_PARAMETER = "__modal_function_call_id"
NOBODY_FOR_S = 300.0  # after which a request that nobody waits for is broken off
_ASKED = re.compile(rb"(?:^|&)" + CALL_ID_PARAMETER.encode() + rb"=(fc-[0-9A-Za-z]+)(?:&|$)")


def earlier_call(query: bytes) -> str | None:
    """The id of the request that a client comes back for, if it does."""
    found = _ASKED.search(query)
    return found[1].decode() if found else None


def see_other(raw_path: bytes, query: bytes, call_id: str) -> tuple[int, list[Header]]:
    """Status and headers of the redirect to the same place, where the client goes on waiting for the call."""
    if not _ASKED.search(query):
        query += (b"&" if query else b"") + f"{CALL_ID_PARAMETER}={call_id}".encode()
    location = no_host(raw_path) + b"?" + query
    return 303, [(b"location", location), (b"content-length", b"0"), (b"cache-control", b"no-store")]


def no_host(path: bytes) -> bytes:
    """The same path for a Location: one that begins with two slashes would be read as a host."""
    return b"/." + path if path.startswith(b"//") else path


class Waiting:
    """The requests that wait for their clients, by call id."""

    def __init__(self, nobody_for_s: float = NOBODY_FOR_S) -> None:
        self._nobody_for_s = nobody_for_s
        self._begun: dict[str, asyncio.Task[None]] = {}
        self._exchanges: dict[str, Exchange] = {}
        self._taken: set[str] = set()
        self._expiry: dict[str, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def park(self, exchange: Exchange) -> None:
        """Go on with a request without its client; again, if it was taken."""
        call_id, loop = exchange.entry.call_id, asyncio.get_running_loop()
        if call_id not in self._exchanges:
            self._exchanges[call_id] = exchange
            self._begun[call_id] = loop.create_task(exchange.begin())
            self._begun[call_id].add_done_callback(_seen)
        self._taken.discard(call_id)
        self._expiry[call_id] = loop.call_later(self._nobody_for_s, self._expire, call_id)

    def take(self, call_id: str, function_id: str) -> tuple[Exchange, asyncio.Task[None]]:
        """A request for one who comes back, and the task of its `begin`; raises Refusal. Then `park` it again, or `remove` it."""
        exchange = self._exchanges.get(call_id)
        if exchange is None or exchange.entry.route.function_id != function_id:
            raise Refusal(404, f"no request waits here under {call_id}: it has been answered, or nobody asked for too long")
        if call_id in self._taken:
            raise Refusal(409, f"somebody else is waiting for {call_id} already")
        self._taken.add(call_id)
        self._expiry.pop(call_id).cancel()
        return exchange, self._begun[call_id]

    def remove(self, exchange: Exchange) -> None:
        """It is being answered, or has failed."""
        call_id = exchange.entry.call_id
        self._exchanges.pop(call_id, None)
        self._begun.pop(call_id, None)
        self._taken.discard(call_id)

    async def close(self) -> None:
        """Break all of them off."""
        for handle in self._expiry.values():
            handle.cancel()
        tasks = [*self._begun.values(), *self._closing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _expire(self, call_id: str) -> None:
        exchange, begun = self._exchanges[call_id], self._begun[call_id]
        self._expiry.pop(call_id)
        self.remove(exchange)
        exchange.leave()
        task = asyncio.get_running_loop().create_task(_end(exchange, begun))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _end(exchange: Exchange, begun: asyncio.Task[None]) -> None:
    try:
        await begun
    except (Left, Refusal):
        pass  # nobody is there to be told
    finally:
        await exchange.close()


def _seen(begun: asyncio.Task[None]) -> None:
    if not begun.cancelled():
        begun.exception()  # told to whoever comes for it, if anybody does
