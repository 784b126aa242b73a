"""What a backup takes from a running server: copies of the databases, and that nothing they refer to is swept meanwhile."""

import asyncio
import secrets
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from pilotlight.backup import databases
from pilotlight.control.garbage import Garbage

log = structlog.get_logger()


class Backups:
    """Use cases of backups. `place` is a directory of ours in the state, for copies that somebody is taking away."""

    def __init__(self, *, paths: Sequence[Path], place: Path, garbage: Garbage) -> None:
        self._paths = paths
        self._place = place
        self._garbage = garbage

    async def sweep(self) -> None:
        """Remove copies that a server which died has left."""
        await asyncio.to_thread(shutil.rmtree, self._place, ignore_errors=True)

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[Path]:
        """A directory with copies of the databases under their names, there until the block ends; so long nothing is swept."""
        async with self._garbage.paused():
            directory = self._place / secrets.token_hex(8)
            try:
                await asyncio.to_thread(self._copy_into, directory)
                log.info("backup_begun")
                yield directory
            finally:
                removing = asyncio.ensure_future(asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True))
                while not removing.done():  # who has gone away may be told so more than once
                    with suppress(asyncio.CancelledError):
                        await asyncio.shield(removing)
                log.info("backup_ended")

    def _copy_into(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True)
        for path in self._paths:
            databases.copy(path, directory / path.name)
