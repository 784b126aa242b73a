"""Dicts, queues, secrets, mounts, environments and tokens as the official client sees them."""

import asyncio
import contextlib
import hashlib
import queue
import threading
import uuid
from pathlib import Path
from typing import Any

import modal
import pytest
from google.protobuf.empty_pb2 import Empty
from modal._utils.grpc_utils import create_channel
from modal.exception import AlreadyExistsError, AuthError, ConflictError, InvalidError, NotFoundError, RequestSizeError
from modal.mount import Mount
from modal_proto import api_grpc, api_pb2
from running_server import DEADLINE_S, RunningServer

from pilotlight.core import errors

EPHEMERAL = api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL


def test_dict_holds_what_was_put(client: modal.Client) -> None:
    with modal.Dict.ephemeral(client=client) as d:
        d["a"] = 1
        assert d.put("a", 2, skip_if_exists=True) is False
        assert d.put("b", 2, skip_if_exists=True) is True
        d.update({"c": [3]}, d={"x": 4})
        assert (d["a"], d.get("zz", "none"), d.contains("b"), d.len()) == (1, "none", True, 4)
        assert sorted(d.keys()) == ["a", "b", "c", "d"]
        assert dict(d.items())["d"] == {"x": 4}
        assert list(d.values()).count(1) == 1
        assert d.pop("a") == 1
        with pytest.raises(KeyError):
            d.pop("a")
        d.clear()
        assert d.len() == 0
        with pytest.raises(RequestSizeError):
            d.put("x" * (2 << 20), 1)


def test_dict_contents_come_in_pages(client: modal.Client) -> None:
    with modal.Dict.ephemeral(client=client) as d:
        d.update({f"k{i}": i for i in range(100)})
        assert sorted(d.values()) == list(range(100))


def test_names_of_dicts(client: modal.Client) -> None:
    with pytest.raises(NotFoundError, match="Dict 'nope' not found in environment 'main'"):
        modal.Dict.from_name("nope", client=client).hydrate()
    modal.Dict.objects.create("mine", client=client)
    with pytest.raises(AlreadyExistsError, match="already exists"):
        modal.Dict.objects.create("mine", client=client)
    d = modal.Dict.from_name("mine", create_if_missing=True, client=client)
    d["k"] = "v"
    assert modal.Dict.from_id(d.object_id, client=client)["k"] == "v"
    assert [one.name for one in modal.Dict.objects.list(client=client)] == ["mine"]
    modal.Dict.objects.delete("mine", client=client)
    with pytest.raises(NotFoundError, match="deleted"):
        d.get("k")


def test_what_was_put_outlives_the_server(client: modal.Client, server: RunningServer) -> None:
    d = modal.Dict.from_name("kept", create_if_missing=True, client=client)
    q = modal.Queue.from_name("kept", create_if_missing=True, client=client)
    d["k"] = "v"
    q.put_many([1, 2, 3])
    assert q.get() == 1
    server.stop()
    server.start()
    assert d["k"] == "v"
    assert q.get_many(5) == [2, 3]
    q.put(4)
    assert q.get() == 4


def test_queue_is_first_in_first_out(client: modal.Client) -> None:
    with modal.Queue.ephemeral(client=client) as q:
        q.put_many([1, 2, 3])
        q.put("other", partition="p")
        assert (q.len(), q.len(total=True)) == (3, 4)
        assert list(q.iterate()) == [1, 2, 3]
        assert q.get_many(2) == [1, 2]
        assert (q.get(), q.get(partition="p")) == (3, "other")
        assert q.get(block=False) is None
        with pytest.raises(queue.Empty):
            q.get(timeout=0.05)
        q.put_many([1, 2])
        q.clear()
        assert q.len() == 0


def test_queue_wakes_who_waits(client: modal.Client) -> None:
    with modal.Queue.ephemeral(client=client) as q:
        got: list[int] = []
        takers = [threading.Thread(target=lambda: got.append(q.get(timeout=DEADLINE_S))) for _ in range(5)]
        for taker in takers:
            taker.start()
        q.put_many(list(range(5)))
        for taker in takers:
            taker.join(DEADLINE_S)
        assert sorted(got) == [0, 1, 2, 3, 4]


def test_iterating_waits_for_more(client: modal.Client) -> None:
    with modal.Queue.ephemeral(client=client) as q:
        q.put(1)
        seen: list[int] = []
        for item in q.iterate(item_poll_timeout=0.5):
            seen.append(item)
            if item < 3:
                q.put(item + 1)
        assert seen == [1, 2, 3]
        assert q.len() == 3


def test_full_queue_refuses(client: modal.Client) -> None:
    with modal.Queue.ephemeral(client=client) as q:
        q.put_many([0] * 5_000)
        with pytest.raises(queue.Full, match="5000 is the limit"):
            q.put(1, block=False)
        q.get_many(10)
        q.put(1, block=False)
        with pytest.raises(RequestSizeError):
            q.put(b"x" * (1 << 20))
        with pytest.raises(InvalidError, match="over the limit of 5000 items"):
            q.put_many([0] * 5_001)


def test_items_are_not_lost_to_getters_that_are_gone(client: modal.Client) -> None:
    async def scenario() -> None:
        async with modal.Queue.ephemeral(client=client) as q:

            async def impatient(index: int) -> None:
                # Given up somewhere between the request's way out and its turn.
                with contextlib.suppress(TimeoutError, queue.Empty):
                    async with asyncio.timeout(0.001 * (index % 20)):
                        await q.get.aio(timeout=5)

            await asyncio.gather(*(impatient(index) for index in range(40)))
            taker = asyncio.create_task(q.get_many.aio(20, timeout=DEADLINE_S))
            for item in range(20):
                await q.put.aio(item)
            got = await taker
            while len(got) < 20:
                got += await q.get_many.aio(20, timeout=DEADLINE_S)
            assert got == list(range(20))

    asyncio.run(scenario())


def _metadata(server: RunningServer, key: str = "some-key") -> dict[str, str]:
    token_id, secret = server.token
    return {
        "x-modal-token-id": token_id,
        "x-modal-token-secret": secret,
        "x-modal-client-type": "1",
        "x-modal-client-version": "1.6.4",
        "x-idempotency-key": key,
    }


def test_repeated_requests_change_nothing_twice(server: RunningServer) -> None:
    async def scenario() -> None:
        async with create_channel(server.url) as channel:
            stub = api_grpc.ModalClientStub(channel)

            async def twice(method: Any, request: Any) -> list[Any]:
                metadata = _metadata(server, str(uuid.uuid4()))
                return [await method(request, metadata=metadata) for _ in range(2)]

            first, second = await twice(stub.QueueGetOrCreate, api_pb2.QueueGetOrCreateRequest(object_creation_type=EPHEMERAL))
            assert first == second
            queue_id = first.queue_id
            await twice(stub.QueuePut, api_pb2.QueuePutRequest(queue_id=queue_id, values=[b"1", b"2"]))
            first, second = await twice(stub.QueueGet, api_pb2.QueueGetRequest(queue_id=queue_id, n_values=1))
            assert first.values == second.values == [b"1"]
            assert (await stub.QueueLen(api_pb2.QueueLenRequest(queue_id=queue_id), metadata=_metadata(server))).len == 1

            first, second = await twice(stub.DictGetOrCreate, api_pb2.DictGetOrCreateRequest(object_creation_type=EPHEMERAL))
            assert first == second
            dict_id = first.dict_id
            entry = api_pb2.DictEntry(key=b"k", value=b"v")
            update = api_pb2.DictUpdateRequest(dict_id=dict_id, updates=[entry], if_not_exists=True)
            assert [reply.created for reply in await twice(stub.DictUpdate, update)] == [True, True]
            popped = await twice(stub.DictPop, api_pb2.DictPopRequest(dict_id=dict_id, key=b"k"))
            assert [reply.value for reply in popped] == [b"v", b"v"]

            create = api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS
            secret = api_pb2.SecretGetOrCreateRequest(deployment_name="s", object_creation_type=create, env_dict={"A": "1"})
            first, second = await twice(stub.SecretGetOrCreate, secret)
            assert first == second
            await twice(stub.EnvironmentCreate, api_pb2.EnvironmentCreateRequest(name="dev"))
            await twice(stub.EnvironmentDelete, api_pb2.EnvironmentDeleteRequest(name="dev"))
            first, second = await twice(stub.BlobCreate, api_pb2.BlobCreateRequest(content_length=5))
            assert first.blob_id == second.blob_id == first.blob_ids[0]
            first, second = await twice(stub.MountGetOrCreate, api_pb2.MountGetOrCreateRequest(object_creation_type=EPHEMERAL))
            assert first == second

    asyncio.run(scenario())


def test_secrets(client: modal.Client, server: RunningServer) -> None:
    modal.Secret.objects.create("db", {"USER": "me", "PASSWORD": "hunter2"}, client=client)
    with pytest.raises(NotFoundError, match="Secret 'nope' not found"):
        modal.Secret.from_name("nope", client=client).hydrate()
    with pytest.raises(ConflictError, match=r"Secret is missing key\(s\): HOST"):
        modal.Secret.from_name("db", required_keys=["USER", "HOST"], client=client).hydrate()
    secret = modal.Secret.from_name("db", required_keys=["USER"], client=client).hydrate()
    secret.update({"HOST": "h"})
    other = modal.Secret.from_dict({"USER": "you", "MORE": "1"}).hydrate(client)
    merged = server.call(server.use_cases.secrets.environment_of([secret.object_id, other.object_id]))
    assert merged == {"USER": "you", "PASSWORD": "hunter2", "HOST": "h", "MORE": "1"}
    assert [one.name for one in modal.Secret.objects.list(client=client)] == ["db"]
    with pytest.raises(InvalidError, match="32768"):
        modal.Secret.objects.create("big", {"A": "x" * 32_769}, client=client)
    server.stop()
    for file in server.state.glob("pilotlight.db*"):
        assert b"hunter2" not in file.read_bytes()
    server.start()
    modal.Secret.objects.delete("db", client=client)
    with pytest.raises(errors.NotFound, match="was deleted"):
        server.call(server.use_cases.secrets.environment_of([secret.object_id]))


def test_mounts(client: modal.Client, server: RunningServer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("a")
    (source / "b.txt").write_text("b" * 1000)
    Mount._from_local_dir(source, remote_path="/root/source")._deploy("files", client=client)
    (source / "a.txt").write_text("changed")
    with pytest.raises(AlreadyExistsError):
        Mount._from_local_dir(source, remote_path="/root/source")._deploy("files", client=client)
    found = Mount.from_name("files", client=client).hydrate()
    mount = server.call(server.use_cases.mounts.get(found.object_id))
    assert [(file.path, file.size) for file in mount.files] == [("/root/source/a.txt", 1), ("/root/source/b.txt", 1000)]
    assert mount.files[0].sha256 == hashlib.sha256(b"a").hexdigest()


def test_mounts_of_the_platform(client: modal.Client, server: RunningServer) -> None:
    everyone = api_pb2.DEPLOYMENT_NAMESPACE_GLOBAL
    package = Mount.from_name("modal-client-mount-9.9.9", namespace=everyone, client=client).hydrate()
    assert not server.call(server.use_cases.mounts.get(package.object_id)).files
    with pytest.raises(NotFoundError, match="add_python"):
        Mount.from_name("python-build-standalone.20230826.3.11.5-gnu", namespace=everyone, client=client).hydrate()


def test_environments(client: modal.Client) -> None:
    modal.Environment.objects.create("dev", client=client)
    with pytest.raises(AlreadyExistsError):
        modal.Environment.objects.create("dev", client=client)
    with pytest.raises(NotFoundError, match="Environment 'x' not found in workspace 'main'"):
        modal.Dict.from_name("d", environment_name="x", client=client).hydrate()
    d = modal.Dict.from_name("d", environment_name="dev", create_if_missing=True, client=client)
    d["k"] = 1
    with pytest.raises(NotFoundError):
        modal.Dict.from_name("d", client=client).hydrate()
    modal.Environment.objects.delete("dev", client=client)
    with pytest.raises(NotFoundError):
        d.get("k")
    with pytest.raises(ConflictError, match="default"):
        modal.Environment.objects.delete("main", client=client)


def _hello(url: str, metadata: dict[str, str]) -> api_pb2.ClientHelloResponse:
    async def ask() -> api_pb2.ClientHelloResponse:
        async with create_channel(url) as channel:
            return await api_grpc.ModalClientStub(channel).ClientHello(Empty(), metadata=metadata)

    return asyncio.run(ask())


def test_tokens(server: RunningServer) -> None:
    token_id, secret = server.token
    assert (server.state / "token").stat().st_mode & 0o777 == 0o600
    modal.Client.verify(server.url, (token_id, secret))
    with pytest.raises(AuthError, match="The token is wrong"):
        modal.Client.verify(server.url, (token_id, "as-wrong"))
    made = server.call(server.use_cases.tokens.create("other"))
    modal.Client.verify(server.url, made)
    server.call(server.use_cases.tokens.revoke(made[0]))
    with pytest.raises(AuthError, match="was revoked"):
        modal.Client.verify(server.url, made)
    with pytest.raises(Exception, match=r"No token was sent.*pilotlight env"):
        _hello(server.url, {})
    assert _hello(server.url, _metadata(server)).image_builder_version == "2025.06"
    with pytest.raises(Exception, match="too old"):
        _hello(server.url, _metadata(server) | {"x-modal-client-version": "0.77.0"})
    _hello(server.url, _metadata(server) | {"x-modal-client-type": "8", "x-modal-client-version": "0.5.0"})


def test_environments_change_their_names_and_the_default(client: modal.Client, server: RunningServer) -> None:
    modal.Environment.objects.create("dev", client=client)
    d = modal.Dict.from_name("d", environment_name="dev", create_if_missing=True, client=client)
    d["k"] = 1
    modal.environments.update_environment("dev", new_name="stage", new_web_suffix="st", client=client)
    found = {item.name: item for item in modal.environments.list_environments(client=client)}
    assert (found["stage"].webhook_suffix, found["stage"].default, found["main"].default) == ("st", False, True)
    assert modal.Dict.from_name("d", environment_name="stage", client=client)["k"] == 1
    with pytest.raises(NotFoundError, match="Environment 'dev' not found"):
        modal.Dict.from_name("d", environment_name="dev", client=client).hydrate()
    with pytest.raises(AlreadyExistsError):
        modal.environments.update_environment("stage", new_name="main", client=client)
    server.call(server.use_cases.environments.set_default("stage"))
    assert modal.Dict.from_name("d", client=client)["k"] == 1
    server.stop()
    server.start()
    found = {item.name: item for item in modal.environments.list_environments(client=client)}
    assert (found["stage"].default, found["main"].default) == (True, False)
    modal.Environment.objects.delete("main", client=client)
    with pytest.raises(ConflictError, match="default"):
        modal.Environment.objects.delete("stage", client=client)


def test_environments_with_roles_are_refused(client: modal.Client) -> None:
    with pytest.raises(Exception, match="Restricted and public environments are not built yet"):
        modal.Environment.objects.create("dev", restricted=True, client=client)
    assert [item.name for item in modal.environments.list_environments(client=client)] == ["main"]
