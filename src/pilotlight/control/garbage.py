"""Garbage: what takes space and is referred to by nothing that a program or a person could still ask for.

What is wanted is decided by what rows refer to (store.garbage), what is fresh is never touched (core.garbage), and whoever may be
about to use something that is on its way out has the last word: mounts and images their own use cases, layers the nodes.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

import structlog
from sqlalchemy import Connection

from pilotlight.control.images import Images
from pilotlight.control.mounts import Mounts
from pilotlight.control.nodes import Nodes, NodeSession
from pilotlight.core import ids
from pilotlight.core.garbage import Held, Verdict, reachable, sort_out
from pilotlight.objects import Objects, blob_key
from pilotlight.store import calls as call_rows
from pilotlight.store import garbage as store
from pilotlight.store.database import Database
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

APP_TTL_S = 35 * 24 * 3600  # of a stopped app's entry in the books: as long as its output is kept
CLIENT_AT_WORK_S = 3600.0  # a client that has asked which files are missing makes its mount within this time
NODE_TIMEOUT_S = 300.0
ROWS_AT_ONCE = 1_000
REMOVALS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Collected:
    """One kind of garbage: what was removed (or would be), and what stays. `problem` says why it was not looked at."""

    kind: str
    removed: int = 0
    removed_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Ages:
    """For how long what nobody refers to is kept after its last use, in seconds."""

    grace_s: float
    image_s: float
    result_s: float


@dataclass(slots=True)
class Known:
    """What the rows say: which ids are wanted, and what there is."""

    wanted: set[str]
    images: list[store.ImageRow]
    mounts: list[Held]
    secrets: list[Held]
    layers: set[str] = field(default_factory=set[str])


class Garbage:
    """Use cases of the sweeper. One sweep at a time."""

    def __init__(
        self,
        *,
        database: Database,
        objects: Objects,
        mounts: Mounts,
        images: Images,
        nodes: Nodes,
        ages: Ages,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._objects = objects
        self._mounts = mounts
        self._images = images
        self._nodes = nodes
        self._ages = ages
        self._now = now
        self._started_at = now()
        self._sweeping = asyncio.Lock()
        self._asked: dict[str, asyncio.Future[platform_pb2.LayersCollected]] = {}
        self.removed: dict[str, tuple[int, int]] = {}  # by kind, since the start: how many and how many bytes

    async def collect(self, *, dry_run: bool = False) -> list[Collected]:
        """Remove what is garbage, or say only what is."""
        async with self._sweeping:
            now = self._now()
            fresh_since = now - self._ages.grace_s
            # Listed before the rows are read: what comes later is no candidate.
            blobs = await self._listed("blobs", fresh_since)
            contents = await self._listed("sha256", fresh_since)
            results = [await self._results(now, dry_run=dry_run), *await self._apps(now, dry_run=dry_run)]
            known = await self._database.read(lambda connection: self._know(connection, now))
            results += [
                await self._blobs(blobs, known, dry_run=dry_run),
                await self._secrets(known, fresh_since, dry_run=dry_run),
                await self._old_images(known, now - self._ages.image_s, dry_run=dry_run),
                await self._unused_mounts(known, fresh_since, dry_run=dry_run),
                await self._contents(contents, known, fresh_since, dry_run=dry_run),
                *await self._layers(known, fresh_since, dry_run=dry_run),
            ]
            if not dry_run:
                self._note(results)
            return results

    def paused(self) -> AbstractAsyncContextManager[None]:
        """For a block of code, no sweep: one that is under way ends first, the next waits."""
        return self._sweeping

    def layers_collected(self, event: platform_pb2.LayersCollected) -> None:
        """A node has done what CollectLayers asked for."""
        if (asked := self._asked.get(event.request_id)) is not None and not asked.done():
            asked.set_result(event)

    def _know(self, connection: Connection, now: float) -> Known:
        roots = store.roots(connection, now - self._ages.result_s)
        images = store.image_rows(connection)
        used_before = now - self._ages.image_s
        roots |= {image.image_id for image in images if image.used_at >= used_before or not image.is_rebuildable}
        refers: dict[str, set[str] | frozenset[str]] = {image.image_id: image.refers for image in images}
        mounts: list[Held] = []
        for mount, files in store.mount_rows(connection):
            mounts.append(mount)
            refers[mount.key] = files
            if mount.used_at >= now - self._ages.grace_s:
                roots.add(mount.key)
        wanted = reachable(roots, refers)
        layers = {layer for image in images if image.image_id in wanted for layer in image.layers}
        return Known(wanted, images, mounts, store.secret_rows(connection), layers)

    async def _listed(self, kind: str, fresh_since: float) -> tuple[list[Held], Verdict]:
        """Objects of a kind that are old enough to be garbage, by what their key ends with; the fresh ones are only counted."""
        old: list[Held] = []
        fresh = Verdict()
        async for some in self._objects.list(kind):
            held = [Held(one.key.rpartition("/")[2], one.size_bytes, one.stored_at) for one in some]
            verdict = sort_out(held, (), fresh_since)
            old += verdict.garbage
            fresh.kept += verdict.kept
            fresh.kept_bytes += verdict.kept_bytes
        return old, fresh

    async def _results(self, now: float, *, dry_run: bool) -> Collected:
        before = now - self._ages.result_s
        if dry_run:
            return Collected("results", await self._database.read(lambda connection: call_rows.count_expired(connection, before)))
        removed = 0
        while some := await self._database.write(lambda connection: call_rows.delete_expired(connection, before, ROWS_AT_ONCE)):
            removed += some
        return Collected("results", removed)

    async def _apps(self, now: float, *, dry_run: bool) -> list[Collected]:
        before, long_before = now - self._ages.result_s, now - max(APP_TTL_S, self._ages.result_s)
        functions = await self._database.read(lambda connection: store.functions_of_stopped_apps(connection, before))
        apps = await self._database.read(lambda connection: store.apps_stopped(connection, long_before))
        if not dry_run and functions:
            await self._database.write(lambda connection: store.remove_functions_of_stopped_apps(connection, before))
        if not dry_run and apps:
            await self._database.write(lambda connection: store.remove_apps(connection, long_before))
        return [Collected("functions", functions), Collected("apps", apps)]

    async def _blobs(self, listed: tuple[list[Held], Verdict], known: Known, *, dry_run: bool) -> Collected:
        old, fresh = listed
        verdict = sort_out(old, known.wanted, float("inf"))
        if not dry_run:
            for start in range(0, len(verdict.garbage), REMOVALS_AT_ONCE):
                some = verdict.garbage[start : start + REMOVALS_AT_ONCE]
                await asyncio.gather(*(self._objects.delete(blob_key(blob.key)) for blob in some))
        return _collected("blobs", verdict, fresh)

    async def _secrets(self, known: Known, fresh_since: float, *, dry_run: bool) -> Collected:
        verdict = sort_out(known.secrets, known.wanted, min(fresh_since, self._now() - self._ages.result_s))
        if verdict.garbage and not dry_run:
            keys = [secret.key for secret in verdict.garbage]
            await self._database.write(lambda connection: store.remove_secrets(connection, keys))
        return _collected("secrets", verdict)

    async def _old_images(self, known: Known, used_before: float, *, dry_run: bool) -> Collected:
        verdict = sort_out((Held(image.image_id, 0, image.used_at) for image in known.images), known.wanted, used_before)
        result = _collected("images", verdict)
        if dry_run:
            return result
        return replace(result, removed=await self._images.remove_unused([one.key for one in verdict.garbage], used_before))

    async def _unused_mounts(self, known: Known, fresh_since: float, *, dry_run: bool) -> Collected:
        verdict = sort_out(known.mounts, known.wanted, fresh_since)
        result = _collected("mounts", verdict)
        if dry_run:
            return result
        return replace(result, removed=await self._mounts.remove_unused([one.key for one in verdict.garbage], fresh_since))

    async def _contents(self, listed: tuple[list[Held], Verdict], known: Known, fresh_since: float, *, dry_run: bool) -> Collected:
        old, fresh = listed
        if self._now() - self._started_at < min(self._ages.grace_s, CLIENT_AT_WORK_S):
            kept = fresh.kept + len(old)
            size = fresh.kept_bytes + sum(held.size_bytes for held in old)
            return Collected("files of mounts", 0, 0, kept, size, "the server has just started: a client may count on any of them")
        asked = (Held(one.key, one.size_bytes, self._mounts.content_used_at(one.key)) for one in old)
        verdict = sort_out(asked, known.wanted, fresh_since)
        if not dry_run:
            for start in range(0, len(verdict.garbage), REMOVALS_AT_ONCE):
                some = verdict.garbage[start : start + REMOVALS_AT_ONCE]
                await asyncio.gather(*(self._mounts.remove_content(content.key, fresh_since) for content in some))
        return _collected("files of mounts", verdict, fresh)

    async def _layers(self, known: Known, fresh_since: float, *, dry_run: bool) -> list[Collected]:
        sessions = self._nodes.all()
        if not sessions:
            return [Collected("layers", problem="no node is connected")]
        return list(await asyncio.gather(*(self._layers_of(node, known.layers, fresh_since, dry_run=dry_run) for node in sessions)))

    async def _layers_of(self, node: NodeSession, wanted: set[str], fresh_since: float, *, dry_run: bool) -> Collected:
        request_id = ids.new(ids.NODE)
        asked = self._asked[request_id] = asyncio.get_running_loop().create_future()
        request = platform_pb2.CollectLayers(request_id=request_id, wanted=sorted(wanted), used_before=fresh_since, dry_run=dry_run)
        node.send(platform_pb2.NodeCommand(collect_layers=request))
        try:
            async with asyncio.timeout(NODE_TIMEOUT_S):
                done = await asked
        except TimeoutError:
            return Collected("layers", problem=f"node {node.name} did not answer within {NODE_TIMEOUT_S:g} s")
        finally:
            del self._asked[request_id]
        return Collected("layers", done.removed, done.removed_bytes, done.kept, done.kept_bytes, done.error)

    def _note(self, results: list[Collected]) -> None:
        for result in results:
            count, size = self.removed.get(result.kind, (0, 0))
            self.removed[result.kind] = (count + result.removed, size + result.removed_bytes)
        swept = {result.kind: result.removed for result in results if result.removed}
        if swept:
            log.info("garbage_removed", bytes=sum(result.removed_bytes for result in results), **swept)


def _collected(kind: str, verdict: Verdict, fresh: Verdict | None = None) -> Collected:
    kept, kept_bytes = (fresh.kept, fresh.kept_bytes) if fresh else (0, 0)
    removed = len(verdict.garbage), verdict.garbage_bytes
    return Collected(kind, *removed, verdict.kept + kept, verdict.kept_bytes + kept_bytes)
