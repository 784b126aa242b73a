"""Child: the stock client at files of volumes, and its HTTP library alone. Answers each line with the seconds that its work took.

{"work": "put", "version": 2, "path": …}    to a new volume's `file`: `modal volume put`; answers with the name
{"work": "get", "volume": …, "path": …}     its file `file` to a path: `modal volume get`
{"work": "delete", "volume": …}
{"work": "bare put" or "bare get", "port": …, "path": …, "size": …}   the same bytes in the same blocks, as many at once
"""

import asyncio
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import modal
from modal._utils.bytes_io_segment_payload import BytesIOSegmentPayload
from modal.cli.entry_point import entrypoint_cli

from bench.processes import say

BLOCK_BYTES = 8 << 20  # as the client cuts files of version 2 volumes
AT_ONCE = 128  # blocks, in both directions: what the client's command line allows itself
CHUNK_BYTES = 256 << 10  # that it reads of its file at a time


def command(*arguments: str) -> float:
    """Seconds of a command of the client's command line, without the start of the interpreter."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        entrypoint_cli(["volume", *arguments], standalone_mode=False)
    return time.perf_counter() - started


def put(wanted: dict[str, Any]) -> dict[str, object]:
    name = f"pilotlight-bench-{secrets.token_hex(4)}"
    modal.Volume.objects.create(name, version=wanted["version"])
    return {"volume": name, "elapsed_s": command("put", name, wanted["path"], "/file")}


def get(wanted: dict[str, Any]) -> dict[str, object]:
    return {"elapsed_s": command("get", "--force", wanted["volume"], "/file", wanted["path"])}


def delete(wanted: dict[str, Any]) -> dict[str, object]:
    modal.Volume.objects.delete(wanted["volume"])
    return {}


async def bare(wanted: dict[str, Any]) -> dict[str, object]:
    """All blocks by the client's HTTP library, and the class that it sends them by."""
    base, size, path = f"http://127.0.0.1:{wanted['port']}", wanted["size"], wanted["path"]
    semaphore = asyncio.Semaphore(AT_ONCE)
    started = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(), timeout=aiohttp.ClientTimeout()) as session:
        ranges = [(start, min(BLOCK_BYTES, size - start)) for start in range(0, size, BLOCK_BYTES)]
        if wanted["work"] == "bare put":
            await asyncio.gather(*(_send(session, semaphore, base, path, *one) for one in ranges))
        else:
            with Path(path).open("wb") as target:  # noqa: ASYNC230 — as the client itself does
                await asyncio.gather(*(_fetch(session, semaphore, base, target, *one) for one in ranges))
    return {"elapsed_s": time.perf_counter() - started}


async def _send(
    session: aiohttp.ClientSession, semaphore: asyncio.Semaphore, base: str, path: str, start: int, length: int
) -> None:
    async with semaphore:
        with Path(path).open("rb") as source:  # noqa: ASYNC230
            payload = BytesIOSegmentPayload(source, start, length, chunk_size=CHUNK_BYTES)
            async with session.put(f"{base}/{start}/{length}", data=payload) as response:
                response.raise_for_status()
                await response.read()


async def _fetch(
    session: aiohttp.ClientSession, semaphore: asyncio.Semaphore, base: str, target: Any, start: int, length: int
) -> None:
    async with semaphore, session.get(f"{base}/{start}/{length}") as response:
        response.raise_for_status()
        position = start
        async for chunk in response.content.iter_any():
            target.seek(position)
            position += target.write(chunk)
        if position != start + length:
            raise RuntimeError(f"{position - start} of {length} bytes came")


WORK: dict[str, Callable[[dict[str, Any]], dict[str, object]]] = {
    "put": put,
    "get": get,
    "delete": delete,
    "bare put": lambda wanted: asyncio.run(bare(wanted)),
    "bare get": lambda wanted: asyncio.run(bare(wanted)),
}


def main() -> None:
    """Serve until standard input ends."""
    for line in sys.stdin:
        wanted = json.loads(line)
        cpu = time.process_time()
        answer = WORK[wanted["work"]](wanted)
        os.sync()  # what one leaves to be written is not the next one's
        say(**answer, cpu_s=time.process_time() - cpu)


if __name__ == "__main__":
    main()
