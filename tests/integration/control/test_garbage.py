"""What the sweeper takes, and what it leaves, over real rows and files."""

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from heart import FakeNode, Heart, put_item
from modal_proto import api_pb2

from pilotlight.control.creation import Creation
from pilotlight.control.garbage import Ages, Collected, Garbage
from pilotlight.control.mounts import MountFile, Mounts
from pilotlight.core import ids
from pilotlight.objects import Objects, blob_key, content_key
from pilotlight.store import images as image_rows
from pilotlight.wire import platform_pb2

DAY_S = 24 * 3600.0
AGES = Ages(grace_s=DAY_S, image_s=30 * DAY_S, result_s=7 * DAY_S)


class Sweep:
    """A sweeper whose clock can be put forward."""

    def __init__(self, heart: Heart) -> None:
        self.heart = heart
        self.objects = Objects(heart.settings.objects_dir)
        self.later_s = 0.0
        server = heart.server
        self.mounts = Mounts(database=server.database, objects=self.objects, now=self.now)
        self.garbage = Garbage(
            database=server.database,
            objects=self.objects,
            mounts=self.mounts,
            images=server.images,
            nodes=server.nodes,
            ages=AGES,
            now=self.now,
        )

    def now(self) -> float:
        return time.time() + self.later_s

    async def blob(self, size: int = 10) -> str:
        blob_id = ids.new(ids.BLOB)
        await self.objects.put(blob_key(blob_id), b"x" * size)
        return blob_id

    async def mount(self, text: str, name: str | None = None) -> tuple[str, str]:
        """Its id, and the hash of its one file."""
        sha = hashlib.sha256(text.encode()).hexdigest()
        await self.mounts.put_file(sha, text.encode())
        files = [MountFile("/f", sha, 0o644)]
        handle = await (self.mounts.deploy("en", name, files, replace=True) if name else self.mounts.create(files))
        return handle.mount_id, sha

    async def has_blob(self, blob_id: str) -> bool:
        return await self.objects.exists(blob_key(blob_id))

    async def has_content(self, sha: str) -> bool:
        return await self.objects.exists(content_key(sha))

    async def run(self, after_s: float = 2 * DAY_S, *, dry_run: bool = False) -> dict[str, Collected]:
        """One sweep so much later."""
        self.later_s += after_s
        return {one.kind: one for one in await self.garbage.collect(dry_run=dry_run)}


def within(tmp_path: Path, scenario: Callable[[Sweep], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            heart = Heart(tmp_path)
            await heart.open()
            try:
                await scenario(Sweep(heart))
            finally:
                await heart.close()

    asyncio.run(run())


def test_blobs_that_a_call_names_stay_until_its_result_goes(tmp_path: Path) -> None:
    async def scenario(sweep: Sweep) -> None:
        function_id = await sweep.heart.define()
        named, orphan = await sweep.blob(), await sweep.blob(1000)
        item = api_pb2.FunctionPutInputsItem(idx=0, input=api_pb2.FunctionInput(args_blob_id=named))
        request = api_pb2.FunctionMapRequest(
            function_id=function_id,
            function_call_type=api_pb2.FUNCTION_CALL_TYPE_UNARY,
            function_call_invocation_type=api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC,
            pipelined_inputs=[item],
        )
        call, _ = await sweep.heart.server.calls.start(request, "key")
        assert (await sweep.run(DAY_S / 2))["blobs"] == Collected("blobs", 0, 0, 2, 1010)  # both are fresh
        would = await sweep.run(DAY_S, dry_run=True)
        assert would["blobs"] == Collected("blobs", 1, 1000, 1, 10)
        assert await sweep.has_blob(orphan)
        assert (await sweep.run(0))["blobs"] == would["blobs"]
        assert (await sweep.has_blob(named), await sweep.has_blob(orphan)) == (True, False)
        await sweep.heart.server.calls.cancel(call.call_id)
        swept = await sweep.run(10 * DAY_S)
        assert (swept["results"].removed, swept["blobs"].removed) == (1, 1)
        assert not await sweep.has_blob(named)
        assert sweep.garbage.removed["blobs"] == (2, 1010)

    within(tmp_path, scenario)


def test_mounts_and_their_files_go_with_the_apps_that_had_them(tmp_path: Path) -> None:
    async def scenario(sweep: Sweep) -> None:
        used, used_sha = await sweep.mount("used")
        _, lone_sha = await sweep.mount("lone")
        _, named_sha = await sweep.mount("named", "deployed-mount")
        await sweep.heart.define("f", mount_ids=[used])
        swept = await sweep.run()
        assert (swept["mounts"].removed, swept["files of mounts"].removed) == (1, 1)
        assert [await sweep.has_content(sha) for sha in (used_sha, lone_sha, named_sha)] == [True, False, True]
        app = sweep.heart.server.apps.all()[0]
        await sweep.heart.server.apps.stop(app.app_id, api_pb2.APP_STOP_SOURCE_CLI)
        assert (await sweep.run())["mounts"].removed == 0  # its calls may still be asked for
        swept = await sweep.run(8 * DAY_S)
        assert (swept["functions"].removed, swept["mounts"].removed, swept["files of mounts"].removed) == (1, 1, 1)
        assert not await sweep.has_content(used_sha)
        swept = await sweep.run(36 * DAY_S)
        assert swept["apps"].removed == 1

    within(tmp_path, scenario)


def test_what_a_client_has_just_asked_about_stays(tmp_path: Path) -> None:
    async def scenario(sweep: Sweep) -> None:
        _, sha = await sweep.mount("old")
        sweep.later_s += 2 * DAY_S
        assert await sweep.mounts.missing([sha]) == []
        swept = await sweep.run(0)
        assert (swept["mounts"].removed, swept["files of mounts"].removed) == (1, 0)
        mount = await sweep.mounts.create([MountFile("/f", sha, 0o644)])  # as the client does next
        assert (await sweep.mounts.get(mount.mount_id)).files[0].sha256 == sha

    within(tmp_path, scenario)


def test_a_server_that_has_just_started_takes_no_files(tmp_path: Path) -> None:
    async def scenario(sweep: Sweep) -> None:
        _, sha = await sweep.mount("old")
        long_ago = time.time() - 2 * DAY_S
        os.utime(sweep.heart.settings.objects_dir / content_key(sha), (long_ago, long_ago))
        swept = await sweep.run(0)
        assert "just started" in swept["files of mounts"].problem
        assert await sweep.has_content(sha)

    within(tmp_path, scenario)


class SlowObjects(Objects):
    """Objects whose deletion waits for the test."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.deleting, self.go_on = asyncio.Event(), asyncio.Event()

    async def delete(self, key: str) -> None:
        self.deleting.set()
        await self.go_on.wait()
        await super().delete(key)


@pytest.mark.parametrize("comes", ["asks", "sends"])
def test_who_comes_while_a_file_is_removed_finds_it_gone_and_sends_it_anew(tmp_path: Path, comes: str) -> None:
    async def scenario(sweep: Sweep) -> None:
        objects = SlowObjects(sweep.heart.settings.objects_dir)
        mounts = Mounts(database=sweep.heart.server.database, objects=objects)
        sha = hashlib.sha256(b"x").hexdigest()
        await mounts.put_file(sha, b"x")
        removing = asyncio.ensure_future(mounts.remove_content(sha, time.time() + 1))
        await objects.deleting.wait()
        coming: asyncio.Future[Any] = asyncio.ensure_future(
            mounts.missing([sha]) if comes == "asks" else mounts.put_file(sha, b"x")
        )
        await asyncio.sleep(0)
        assert not coming.done()
        objects.go_on.set()
        assert await removing
        if comes == "asks":
            assert await coming == [sha]
        else:
            await coming
            assert await objects.exists(content_key(sha))

    within(tmp_path, scenario)


async def _image(
    sweep: Sweep, name: str, layers: list[str], commands: list[str], bases: list[str] | None = None, **more: Any
) -> str:
    image_id = ids.derived(ids.IMAGE, name)
    named = [api_pb2.BaseImage(docker_tag="base", image_id=base) for base in bases or ()]
    definition = api_pb2.Image(dockerfile_commands=commands, base_images=named).SerializeToString()
    row = {"image_id": image_id, "definition": definition, "builder_version": "2025.06", "client_version": "1.6.4"}
    row |= {"state": "built", "layers": layers, "config": b"", "metadata": b"", "created_at": time.time(), **more}
    await sweep.heart.server.database.write(lambda connection: image_rows.insert_image(connection, row))
    return image_id


def test_images_go_when_nobody_asks_for_them_and_nodes_are_told_what_is_wanted(tmp_path: Path) -> None:
    async def scenario(sweep: Sweep) -> None:
        base = await _image(sweep, "base", ["l1"], ["FROM x"])
        used = await _image(sweep, "used", ["l1", "l2"], ["FROM base"], [base])
        idle = await _image(sweep, "idle", ["l1", "l3"], ["FROM base"], [base])
        snapshot = await _image(sweep, "snapshot", ["l4"], [])
        node = FakeNode(sweep.heart)
        await node.connect()
        await sweep.heart.define("f")  # of an image of its own
        function = api_pb2.Function(function_name="g", image_id=used)
        app = await sweep.heart.server.apps.create(api_pb2.AppCreateRequest(description="g"), "1.6.4", "app g")
        create = api_pb2.FunctionCreateRequest(app_id=app.app_id, function=function)
        await sweep.heart.server.functions.create(create, "1.6.4", "function g")

        async def swept() -> dict[str, Collected]:
            running = asyncio.ensure_future(sweep.run(40 * DAY_S))
            while not (commands := node.commands("collect_layers")):
                await node.session.wake.wait()
                node.session.wake.clear()
            [asked] = commands
            assert set(asked.wanted) == {"l1", "l2", "l4"}
            sweep.garbage.layers_collected(
                platform_pb2.LayersCollected(request_id=asked.request_id, removed=1, removed_bytes=7, kept=3, kept_bytes=9)
            )
            return await running

        results = await swept()
        assert results["layers"] == Collected("layers", 1, 7, 3, 9)
        assert results["images"].removed == 1
        left = [
            await sweep.heart.server.database.read(lambda c, i=i: image_rows.image_row(c, i)) for i in (base, used, idle, snapshot)
        ]
        assert [row is not None for row in left] == [True, True, False, True]

    within(tmp_path, scenario)


def test_an_image_that_is_asked_for_is_in_use(tmp_path: Path) -> None:
    async def scenario(sweep: Sweep) -> None:
        server = sweep.heart.server
        image_id = await _image(sweep, "old", [], ["FROM x"], created_at=1.0)
        assert await server.images.remove_unused([image_id], 1.0) == 0
        request = api_pb2.ImageGetOrCreateRequest(image=api_pb2.Image(dockerfile_commands=["FROM x"]), builder_version="2025.06")
        row = await server.images.get_or_create(request, "1.6.4", "")
        before = time.time() - DAY_S
        assert await server.images.remove_unused([row.image_id, image_id], before) == 1
        assert await server.images.row(row.image_id) is not None

    within(tmp_path, scenario)


def test_secrets_without_a_name_go_when_nothing_has_them(tmp_path: Path) -> None:
    async def scenario(sweep: Sweep) -> None:
        secrets = sweep.heart.server.secrets
        used = await secrets.get_or_create("", "", Creation.ANONYMOUS, {"A": "1"})
        lone = await secrets.get_or_create("", "", Creation.ANONYMOUS, {"A": "2"})
        named = await secrets.get_or_create("", "kept", Creation.IF_MISSING, {"A": "3"})
        await sweep.heart.define("f", secret_ids=[used.secret_id])
        swept = await sweep.run(8 * DAY_S)
        assert (swept["secrets"].removed, swept["secrets"].kept) == (1, 1)
        assert await secrets.environment_of([used.secret_id]) == {"A": "1"}
        assert await secrets.environment_of([named.secret_id]) == {"A": "3"}
        with pytest.raises(Exception, match="was deleted"):
            await secrets.get(lone.secret_id)

    within(tmp_path, scenario)


def test_what_is_put_meanwhile_is_no_garbage(tmp_path: Path) -> None:
    """Calls, uploads and sweeps at once: each call finds its blob."""

    async def scenario(sweep: Sweep) -> None:
        function_id = await sweep.heart.define()
        sweep.later_s = -DAY_S + 5  # what is made now is just within the grace

        async def call(number: int) -> str:
            blob_id = await sweep.blob()
            await asyncio.sleep(0)
            item = put_item(0)
            item.input.CopyFrom(api_pb2.FunctionInput(args_blob_id=blob_id))
            request = api_pb2.FunctionMapRequest(function_id=function_id, pipelined_inputs=[item])
            await sweep.heart.server.calls.start(request, f"key {number}")
            return blob_id

        async def sweeps() -> None:
            for _ in range(5):
                await sweep.run(0)

        *blobs, _ = await asyncio.gather(*(call(number) for number in range(50)), sweeps())
        sweep.later_s = 3 * DAY_S
        assert (await sweep.run(0))["blobs"] == Collected("blobs", 0, 0, 50, 500)
        assert all([await sweep.has_blob(blob) for blob in blobs])

    within(tmp_path, scenario)
