"""Child: the stock client at files of volumes, and its HTTP library alone. Answers each line with the seconds that its work took.

{"work": "put", "version": 2, "path": …}    to a new volume's `file`: `modal volume put`; answers with the name
{"work": "get", "volume": …, "path": …}     its file `file` to a path: `modal volume get`
{"work": "delete", "volume": …}
{"work": "bare put" or "bare get", "port": …, "path": …, "size": …}   the same bytes to and from a bare server: what the client does
                                            for version 2, without a word to a platform
{"work": "alone put", …}                    the same without the client: no hashes, its HTTP library alone
"""

import asyncio
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import aiohttp
import modal
from modal._utils.async_utils import synchronizer
from modal._utils.blob_utils import FileUploadSpec2
from modal.cli.entry_point import entrypoint_cli
from modal.volume import _put_missing_blocks
from modal_proto import api_pb2

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


async def client_put(base: str, path: str) -> float:
    """Seconds of the client's own code: it hashes all blocks, then sends them."""
    started = time.perf_counter()
    spec = await FileUploadSpec2.from_path(Path(path), PurePosixPath("/file"), asyncio.Semaphore(os.cpu_count() or 1))
    missing = [
        api_pb2.VolumePutFiles2Response.MissingBlock(file_index=0, block_index=index, put_url=f"{base}/{index}")
        for index in range(len(spec.blocks))
    ]
    await _put_missing_blocks([spec], missing, {}, AT_ONCE, lambda *_, **__: None)
    return time.perf_counter() - started


# On the client's own loop, where its HTTP session is.
client_put_blocking = synchronizer.create_blocking(client_put)


async def bare(wanted: dict[str, Any]) -> dict[str, object]:
    """All blocks to or from the bare server, by the client's HTTP library alone."""
    base, size, path = f"http://127.0.0.1:{wanted['port']}", wanted["size"], wanted["path"]
    semaphore = asyncio.Semaphore(AT_ONCE)
    started = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(), timeout=aiohttp.ClientTimeout()) as session:
        ranges = [(start, min(BLOCK_BYTES, size - start)) for start in range(0, size, BLOCK_BYTES)]
        if wanted["work"] == "alone put":
            await asyncio.gather(*(_send(session, semaphore, base, path, *one) for one in ranges))
        else:
            with Path(path).open("wb") as target:  # noqa: ASYNC230 — as the client itself does
                await asyncio.gather(*(_fetch(session, semaphore, base, target, *one) for one in ranges))
    return {"elapsed_s": time.perf_counter() - started}


async def _send(
    session: aiohttp.ClientSession, semaphore: asyncio.Semaphore, base: str, path: str, start: int, length: int
) -> None:
    headers = {"content-length": str(length)}
    async with semaphore:
        with Path(path).open("rb") as source:  # noqa: ASYNC230
            async with session.put(f"{base}/{start}/{length}", data=_chunks(source, start, length), headers=headers) as response:
                response.raise_for_status()
                await response.read()


async def _chunks(source: BinaryIO, start: int, length: int) -> AsyncIterator[bytes]:
    source.seek(start)
    for begin in range(0, length, CHUNK_BYTES):
        yield source.read(min(CHUNK_BYTES, length - begin))


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
    "bare put": lambda wanted: {"elapsed_s": client_put_blocking(f"http://127.0.0.1:{wanted['port']}", wanted["path"])},
    "alone put": lambda wanted: asyncio.run(bare(wanted)),
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
