"""Backups in our own service, for the command line, which writes the archive."""

import asyncio
from typing import Any

from pilotlight.control.backups import Backups
from pilotlight.wire import platform_pb2


class BackupControl:
    """The method of the Control service that is about backups."""

    _backups: Backups

    async def Backup(self, stream: Any) -> None:
        await stream.recv_message()
        async with self._backups.snapshot() as directory:
            await stream.send_message(platform_pb2.BackupReply(directory=str(directory)))
            await asyncio.Event().wait()  # until the caller ends the stream, or is gone
