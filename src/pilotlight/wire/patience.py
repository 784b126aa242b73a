"""What a client's connection may ask of a gRPC server, and for how long it is waited for.

Invariant: one connection, whatever it sends, reads or leaves undone, holds neither the loop nor memory that others need.

* Who says nothing is asked for a sign of life (a PING of HTTP/2), and is dropped if none comes: a half-open connection.
* Who asks for nothing that was accepted, from the beginning on, is dropped: one that only takes a place.
* Who does not read what it is sent is dropped.
* Who asks faster than it may is read more slowly: TCP holds it back at its own end, and it loses nothing.
* Whose bytes take long to look at, whatever they are (frames that ask for nothing are cheap to send), has others go before it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from pilotlight.core.rates import Pace

log = structlog.get_logger()

SILENT_S = 30.0  # without a byte from the client, before it is asked for a sign of life
ANSWER_S = 20.0  # for that sign
LAST_LOOK_S = 1.0  # after that: had this process been stopped, the sign waits to be read
FIRST_REQUEST_S = 30.0  # for the first request that is accepted
UNREAD_S = 60.0  # for which a client may read nothing while there is more for it than the buffers take
UNREAD_BYTES = 64 << 20  # that wait to be taken by a client
SLICE_BYTES = 2 << 10  # of what has come, looked at in one piece
MANY_REQUESTS = 8  # after so many in what has come, others have their turn before the next slice
TURN_S = 0.005  # of the processor, that what has come from one connection takes before others have their turn
BEYOND_TURN_S = 0.02  # for which nothing more is read of one that takes longer
BURST_S = 1.0  # at its rate, that a client may be ahead
SHORTEST_HOLD_S = 0.005
_PING = b"pilotlit"  # eight bytes


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits of the connections of one listener."""

    requests_per_s: float = 0.0  # of one connection; 0.0: as many as it likes
    silent_s: float = SILENT_S
    answer_s: float = ANSWER_S
    first_request_s: float = FIRST_REQUEST_S
    unread_s: float = UNREAD_S


class Watch:
    """Watches one connection. `feed` gives the protocol bytes; `ping` sends a PING; `is_choked`: its client reads
    too slowly."""

    def __init__(
        self,
        patience: Patience,
        transport: Any,
        feed: Callable[[bytes], None],
        ping: Callable[[bytes], None],
        is_choked: Callable[[], bool],
    ) -> None:
        self._patience = patience
        self._transport = transport
        self._feed = feed
        self._ping = ping
        self._is_choked = is_choked
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()
        self.is_proved = False  # a request was accepted
        self._was_heard = False
        self._asked = 0  # for a sign of life: 1; looked for it once more: 2
        self._choked_since: float | None = None
        self._requests = 0
        rate = patience.requests_per_s
        self._pace = Pace(rate, rate * BURST_S, self._began_at) if rate else None
        self._rest = b""  # has come, and waits for its turn
        self._held_until = 0.0
        self._going_on: asyncio.Handle | None = None
        self._timer = self._loop.call_later(min(patience.silent_s, patience.first_request_s), self._look)

    def close(self) -> None:
        """The connection has ended."""
        self._timer.cancel()
        if self._going_on is not None:
            self._going_on.cancel()
        self._rest = b""

    def proved(self) -> None:
        """A request was accepted."""
        self.is_proved = True

    def requested(self) -> None:
        """A request has begun."""
        self._requests += 1
        if self._pace is not None and (ahead_s := self._pace.take(self._loop.time())):
            self.hold(ahead_s)

    def hold(self, seconds: float) -> None:
        """Read nothing more for so long."""
        if seconds >= SHORTEST_HOLD_S:
            self._held_until = max(self._held_until, self._loop.time() + seconds)
            self._wait()

    # ---- what comes in ----

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._was_heard = True
        if self._going_on is not None:
            self._rest += data
        elif len(data) <= SLICE_BYTES:
            self._feed(data)
        else:
            self._feed_slices(data)

    def _feed_slices(self, data: bytes) -> None:
        before = self._requests
        until = time.thread_time() + TURN_S  # not of the clock: on a busy machine anything takes long
        for begin in range(0, len(data), SLICE_BYTES):
            if self._transport.is_closing():
                return
            if self._requests - before >= MANY_REQUESTS or self._going_on is not None:
                self._rest = data[begin:]
                self._wait()
                return
            if time.thread_time() > until:
                self._rest = data[begin:]
                self.hold(BEYOND_TURN_S)
                return
            self._feed(data[begin : begin + SLICE_BYTES])

    def _wait(self) -> None:
        """Go on in a later turn of the loop, not before `_held_until`."""
        if self._going_on is None and not self._transport.is_closing():
            self._transport.pause_reading()
        elif self._going_on is not None:
            self._going_on.cancel()
        if self._held_until > self._loop.time():
            self._going_on = self._loop.call_at(self._held_until, self._go_on)
        else:
            self._going_on = self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._going_on = None
        rest, self._rest = self._rest, b""
        if self._transport.is_closing():
            return
        self._transport.resume_reading()
        if rest:
            self._feed_slices(rest)

    # ---- what does not ----

    def _look(self) -> None:
        problem, after_s = self._judge()
        if problem:
            peer = self._transport.get_extra_info("peername")
            log.info("client_dropped", why=problem, peer=str(peer[0]) if isinstance(peer, tuple) else "")
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(after_s, self._look)

    def _judge(self) -> tuple[str, float]:
        """What is wrong, or in how many seconds to look again."""
        patience, now = self._patience, self._loop.time()
        if not self.is_proved and now - self._began_at >= patience.first_request_s:
            return "it has asked for nothing that was accepted", 0.0
        if self._transport.get_write_buffer_size() > UNREAD_BYTES:
            return "it does not read what it is sent", 0.0
        if not self._is_choked():
            self._choked_since = None
        elif self._choked_since is None:
            self._choked_since = now
        elif now - self._choked_since >= patience.unread_s:
            return "it does not read what it is sent", 0.0
        if self._was_heard or self._going_on is not None:
            self._was_heard, self._asked = False, 0
            return "", patience.silent_s
        self._asked += 1
        if self._asked == 1:
            self._ping(_PING)
            return "", patience.answer_s
        if self._asked == 2:
            return "", LAST_LOOK_S
        return "it gives no sign of life", 0.0
