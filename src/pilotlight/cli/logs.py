"""`pilotlight logs`: what the processes of the platform wrote."""

import os
from collections.abc import Iterator
from pathlib import Path

import click

from pilotlight.cli.options import settings_for, state_flag, state_option
from pilotlight.core.errors import NotFound
from pilotlight.supervisor.journal import tail

LOOK_AGAIN_MS = 1000
PROCESSES = ("supervisor", "server", "edge", "node")


class Follower:
    """Yields what is appended to a log since the last look, over a rotation too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = path.stat().st_ino if path.exists() else 0
        self.offset = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def new_lines(self) -> Iterator[str]:
        try:
            with self._path.open("rb") as log:
                found = os.fstat(log.fileno())
                if found.st_ino != self._inode or found.st_size < self.offset:
                    self._inode, self.offset = found.st_ino, 0
                log.seek(self.offset)
                fresh = log.read()
        except FileNotFoundError:
            return
        self.offset += len(fresh)
        *lines, self._rest = (self._rest + fresh).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)


def _follow(followers: dict[str, Follower], directory: Path, width: int) -> None:
    from watchfiles import watch

    # The look at each LOOK_AGAIN_MS is for what was written before the watch began; all else comes by event.
    for _ in watch(directory, debounce=100, step=20, rust_timeout=LOOK_AGAIN_MS, yield_on_timeout=True, raise_interrupt=False):
        for process, follower in followers.items():
            for line in follower.new_lines():
                _show(process, line, width)


def _show(process: str, line: str, width: int) -> None:
    click.echo(f"{process:<{width}} {line}" if width else line)


@click.command()
@click.argument("process", required=False, type=click.Choice(PROCESSES))
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("-n", "--lines", default=50, show_default=True, help="How many of the last lines of each to show.")
@state_option
def logs(process: str | None, follow: bool, lines: int, state: Path | None) -> None:
    """Show the logs of the platform's processes (of one, or of all)."""
    settings = settings_for(state)
    if not settings.process_logs_dir.is_dir():
        raise NotFound(
            f"there are no logs in {settings.process_logs_dir} yet: no platform was started there. "
            f"Start it: pilotlight up --detach{state_flag(settings)}"
        )
    chosen: list[str] = [process] if process else list(PROCESSES)
    width = 0 if process else max(map(len, PROCESSES))
    followers = {name: Follower(settings.process_logs_dir / f"{name}.log") for name in chosen}
    for name in chosen:
        for line in tail(settings.process_logs_dir / f"{name}.log", lines, followers[name].offset):
            _show(name, line, width)
    if follow:
        _follow(followers, settings.process_logs_dir, width)
