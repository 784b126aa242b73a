"""What nothing on this machine and no image of the server needs: layers, directories of mounts, what is known of images."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import structlog

from pilotlight.core.errors import NotFound
from pilotlight.core.garbage import Held, Verdict, sort_out
from pilotlight.images import probe
from pilotlight.images.layers import LayerStore
from pilotlight.images.local import LocalImages
from pilotlight.images.mounts import Mounts, content_key
from pilotlight.wire import platform_pb2

log = structlog.get_logger()


class NodeGarbage:
    """Removes them at the server's command. `running` says what the containers of this moment were started with."""

    def __init__(self, layers: LayerStore, local: LocalImages, mounts: Mounts, probes_dir: Path) -> None:
        self._layers = layers
        self._local = local
        self._mounts = mounts
        self._probes_dir = probes_dir
        self.running: Callable[[], Iterable[platform_pb2.StartTask]] = tuple
        self.collect_client_bytecode: Callable[[], Awaitable[None]] | None = None
        self.collect_bytecode: Callable[[float, Iterable[platform_pb2.StartTask]], Awaitable[None]] | None = None

    async def collect(self, request: platform_pb2.CollectLayers) -> platform_pb2.LayersCollected:
        """Remove what is garbage, or only count it: layers, and directories of mounts as if they were layers."""
        base_layers = (layer for image in self._local.list_images() for layer in image.layers)
        wanted = {*request.wanted, *self._in_use(), *base_layers}
        verdict = sort_out(self._held(), wanted, request.used_before)
        shown = {content_key(mount) for task in self.running() for mount in task.mounts}
        unused_mounts = await self._mounts.collect(request.used_before, shown, dry_run=request.dry_run)
        if not request.dry_run:
            verdict = await self._removed(verdict, request.used_before)
            if self.collect_bytecode is not None:
                await self.collect_bytecode(request.used_before, self.running())
            if self.collect_client_bytecode is not None:
                await self.collect_client_bytecode()
            await asyncio.to_thread(probe.sweep, self._probes_dir, self._layers.has)
        if verdict.garbage and not request.dry_run:
            log.info("layers_removed", count=len(verdict.garbage), bytes=verdict.garbage_bytes)
        return platform_pb2.LayersCollected(
            request_id=request.request_id,
            removed=len(verdict.garbage) + len(unused_mounts.garbage),
            removed_bytes=verdict.garbage_bytes + unused_mounts.garbage_bytes,
            kept=verdict.kept + unused_mounts.kept,
            kept_bytes=verdict.kept_bytes + unused_mounts.kept_bytes,
        )

    def _in_use(self) -> set[str]:
        return {layer for task in self.running() for layer in task.layers}

    def _held(self) -> Iterable[Held]:
        for record in self._layers.list():
            try:
                used_at = self._layers.used_at(record.layer_id)
            except NotFound:  # the command line has just removed it
                continue
            yield Held(record.layer_id, record.size_bytes, used_at)

    async def _removed(self, verdict: Verdict, used_before: float) -> Verdict:
        """What really went: a container or a build may have come for a layer meanwhile."""
        done = Verdict(kept=verdict.kept, kept_bytes=verdict.kept_bytes)
        for held in verdict.garbage:
            if held.key not in self._in_use() and await self._layers.remove(held.key, used_before=used_before):
                done.garbage.append(held)
            else:
                done.kept += 1
                done.kept_bytes += held.size_bytes
        return done
