"""Events, done to a target. What lasts is ended by a thread of its own, and in any case before everything is killed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tests.chaos.schedule import Event, Kind
from tests.chaos.target import Target, send

T = TypeVar("T")

PATIENCE_S = 6.0  # for a process that is just being started, or a container, so that there is something to kill


@dataclass
class Window:
    """When a fault was: seconds on CLOCK_MONOTONIC; `ended_at` is None while it lasts."""

    kind: Kind
    began_at: float
    ended_at: float | None = None


@dataclass
class _Lasting:
    window: Window
    end: Callable[[], None]
    over: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread = field(init=False)


class Faults:
    """Does events one after the other, and knows when each was."""

    def __init__(self, target: Target) -> None:
        self.windows: list[Window] = []
        self.kills = 0
        self._target = target
        self._lasting: list[_Lasting] = []
        self._lock = threading.Lock()

    def do(self, event: Event) -> str:
        """Do it; says what was done in a few words."""
        match event.kind:
            case Kind.KILL_SERVER | Kind.KILL_EDGE | Kind.KILL_NODE:
                return self._kill_role(event)
            case Kind.KILL_CONTAINER:
                return self._kill_container(event)
            case Kind.KILL_ALL | Kind.CUT_POWER:
                return self._end_everything(event)
            case Kind.FREEZE_SERVER | Kind.FREEZE_EDGE | Kind.FREEZE_NODE:
                return self._freeze(event)
            case Kind.CUT_STREAM:
                with self._window(event.kind):
                    return f"{self._target.cut_stream()} cut"
            case Kind.FILL_DISK:
                assert self._target.disk is not None
                return self._last(event, self._target.disk.fill, self._target.disk.make_room)
            case Kind.STALL_DISK:
                assert self._target.disk is not None
                return self._last(event, self._target.disk.freeze, self._target.disk.thaw)
            case Kind.JUMP_CLOCK:
                clock = self._target.clock
                assert clock is not None
                return self._last(event, lambda: clock.set(event.jump_s), lambda: clock.set(0.0))

    def close(self) -> None:
        """End all that lasts."""
        with self._lock:
            lasting, self._lasting = self._lasting, []
        self._end(lasting)

    # ---- kills ----

    def _kill_role(self, event: Event) -> str:
        role = event.kind.removeprefix("kill ")
        opened = self._eventually(lambda: self._target.open_process(role))
        if opened is None:
            return f"there was no {role}"
        try:
            with self._window(event.kind):
                self.kills += send(opened, signal.SIGKILL)
        finally:
            os.close(opened)
        return "killed"

    def _kill_container(self, event: Event) -> str:
        running = self._eventually(lambda: self._target.containers() or None)
        if running is None:
            return "there was none"
        name = sorted(running)[int(event.choice * len(running)) % len(running)]
        with self._window(event.kind):
            self._target.kill(running[name])
        self.kills += 1
        return f"killed {name}"

    def _end_everything(self, event: Event) -> str:
        self.close()
        began = time.monotonic()
        with self._window(event.kind):
            if event.kind == Kind.CUT_POWER:
                self._target.lose_power()
            else:
                self._target.kill_all()
            gone = time.monotonic()
            self._target.up()
        self.kills += 1
        return f"gone after {gone - began:.1f} s, up after {time.monotonic() - gone:.1f} s more"

    def _eventually(self, find: Callable[[], T | None]) -> T | None:
        deadline = time.monotonic() + PATIENCE_S
        while (found := find()) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    # ---- what lasts ----

    def _freeze(self, event: Event) -> str:
        role = event.kind.removeprefix("freeze ")
        opened = self._eventually(lambda: self._target.open_process(role))
        if opened is None:
            return f"there was no {role}"

        def go_on() -> None:
            send(opened, signal.SIGCONT)
            os.close(opened)

        return self._last(event, lambda: send(opened, signal.SIGSTOP), go_on)

    def _last(self, event: Event, begin: Callable[[], object], end: Callable[[], None]) -> str:
        self._end([one for one in self._lasting if one.window.kind == event.kind])
        window = Window(event.kind, time.monotonic())
        self.windows.append(window)
        begin()
        lasting = _Lasting(window, end)

        def run() -> None:
            lasting.over.wait(event.lasts_s)
            lasting.end()
            window.ended_at = time.monotonic()

        lasting.thread = threading.Thread(target=run, name=str(event.kind))
        with self._lock:
            self._lasting.append(lasting)
        lasting.thread.start()
        return "began"

    def _end(self, lasting: Sequence[_Lasting]) -> None:
        for one in lasting:
            one.over.set()
        for one in lasting:
            one.thread.join()

    @contextmanager
    def _window(self, kind: Kind) -> Generator[None]:
        window = Window(kind, time.monotonic())
        self.windows.append(window)
        yield
        window.ended_at = time.monotonic()
