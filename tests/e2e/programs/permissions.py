"""What code in a container may do with the platform: all that a program needs of its own environment, and nothing by an id alone.

OTHER names an environment in which `prepare_permissions.py` has deployed and made things; STOLEN holds their ids.
"""

import asyncio
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import modal

app = modal.App("permissions")
volume = modal.Volume.from_name("permissions", create_if_missing=True)
OTHER = os.environ.get("OTHER", "")
STOLEN = json.loads(os.environ.get("STOLEN", "{}"))


@app.function()
def double(number: int) -> int:
    return 2 * number


@app.function()
def count(limit: int):
    yield from range(limit)


@app.cls()
class Shelf:
    label: str = modal.parameter(default="none")

    @modal.method()
    def put(self, thing: str) -> str:
        return f"{self.label}: {thing}"


# ---- what every program may do ----


@app.function(volumes={"/data": volume})
def work(name: str) -> dict[str, object]:
    """All that is offered to code in containers, in its own environment."""
    Path("/data/file").write_text("written")
    volume.commit()
    volume.reload()
    things = modal.Dict.from_name(name, create_if_missing=True)
    things["key"] = "value"
    line = modal.Queue.from_name(name, create_if_missing=True)
    line.put("item")
    call = double.spawn(4)
    with modal.Queue.ephemeral() as own:
        own.put(1)
        ephemeral = own.get()
    with modal.forward(8000) as tunnel:
        forwarded = bool(tunnel.url)
    return {
        "remote": double.remote(2),
        "map": list(double.map(range(3))),
        "spawn": modal.FunctionCall.from_id(call.object_id).get(),
        "generator": list(count.remote_gen(3)),
        "class": Shelf(label="a").put.remote("b"),
        "dict": things.get("key"),
        "queue": line.get(),
        "ephemeral": ephemeral,
        "volume": "file" in [entry.path for entry in volume.listdir("/")],
        "read": b"".join(volume.read_file("file")).decode(),
        "large": len(modal.Function.from_name("permissions-deployed", "echo").remote(b"x" * (4 << 20))),
        "deployed": modal.Function.from_name("permissions-deployed", "echo").remote("hello"),
        "secret": modal.Secret.from_name("permissions").hydrate().object_id[:3],
        "current": [bool(modal.current_input_id()), bool(modal.current_function_call_id())],
        "stats": double.get_current_stats().num_total_runners >= 1,
        "forwarded": forwarded,
    }


def check_what_programs_do() -> None:
    name = f"permissions-{uuid.uuid4().hex}"
    expected = {
        "remote": 4,
        "map": [0, 2, 4],
        "spawn": 8,
        "generator": [0, 1, 2],
        "class": "a: b",
        "dict": "value",
        "queue": "item",
        "ephemeral": 1,
        "volume": True,
        "read": "written",
        "large": 4 << 20,
        "deployed": "hello",
        "secret": "st-",
        "current": [True, True],
        "stats": True,
        "forwarded": True,
    }
    done = work.remote(name)
    assert done == expected, done
    modal.Dict.delete(name) if not hasattr(modal.Dict, "objects") else modal.Dict.objects.delete(name)
    modal.Queue.delete(name) if not hasattr(modal.Queue, "objects") else modal.Queue.objects.delete(name)


@app.function()
def run_an_app() -> int:
    """An app of its own, started by code in a container."""
    import modal

    inner = modal.App("inner")
    inner.function(serialized=True, name="triple")(lambda number: 3 * number)
    with inner.run():
        return inner.registered_functions["triple"].remote(3)


def check_an_app_that_a_container_runs() -> None:
    assert run_an_app.remote() == 9


# ---- another environment ----


@app.function()
def by_name(other: str) -> list[object]:
    found = modal.Function.from_name("permissions-deployed", "echo", environment_name=other)
    call = found.spawn("there")
    return [
        found.remote("back"),
        call.get(),
        modal.Dict.from_name("permissions", environment_name=other).get("key"),
        modal.Cls.from_name("permissions-deployed", "Box", environment_name=other)(size=3).fill.remote(),
    ]


def check_other_environments_by_name() -> None:
    assert by_name.remote(OTHER) == ["back", "there", "of the other", 3]


def refusal(ask: Callable[[], object]) -> str:
    try:
        given = ask()
    except Exception as error:  # noqa: BLE001 - told by its kind
        return f"{type(error).__name__}: {error}"
    return f"it was given: {given!r}"


@app.function()
def with_stolen_ids(stolen: dict[str, str], other: str) -> dict[str, str]:
    """Requests with ids that nobody gave to this app, past the client: by the socket that it uses itself."""
    from grpclib.client import Channel
    from modal_proto import api_grpc, api_pb2

    def ask(name: str, request: object) -> object:
        async def call() -> object:
            channel = Channel(path=os.environ["MODAL_SERVER_URL"].removeprefix("unix://"))
            try:
                return await getattr(api_grpc.ModalClientStub(channel), name)(request, timeout=20)
            finally:
                channel.close()

        return asyncio.run(call())

    return {
        "call": refusal(lambda: modal.FunctionCall.from_id(stolen["call"]).get(timeout=1)),
        "dict": refusal(lambda: ask("DictGet", api_pb2.DictGetRequest(dict_id=stolen["dict"], key=b"k"))),
        "queue": refusal(lambda: ask("QueueGet", api_pb2.QueueGetRequest(queue_id=stolen["queue"], n_values=1))),
        "volume": refusal(lambda: ask("VolumeGetFile2", api_pb2.VolumeGetFile2Request(volume_id=stolen["volume"], path="f"))),
        "function": refusal(lambda: ask("FunctionMap", api_pb2.FunctionMapRequest(function_id=stolen["function"]))),
        "app": refusal(lambda: ask("AppStop", api_pb2.AppStopRequest(app_id=stolen["app"]))),
        "secret": refusal(lambda: ask("SecretDelete", api_pb2.SecretDeleteRequest(secret_id=stolen["secret"]))),
        "secrets": refusal(lambda: modal.Secret.from_name("permissions", environment_name=other).hydrate()),
        "environment": refusal(lambda: ask("EnvironmentDelete", api_pb2.EnvironmentDeleteRequest(name=other))),
    }


def check_stolen_ids() -> None:
    found = with_stolen_ids.remote(STOLEN, OTHER)
    let_in = {what: said for what, said in found.items() if "may not" not in said and "may only" not in said}
    assert not let_in, let_in


# ---- restrict_modal_access ----


@app.function(restrict_modal_access=True, volumes={"/data": volume})
def restricted(data: bytes) -> dict[str, object]:
    Path("/data/restricted").write_text("kept")
    return {
        "large": len(data),
        "function": refusal(lambda: double.remote(2)),
        "dict": refusal(lambda: modal.Dict.from_name("x", create_if_missing=True).put("a", 1)),
        "queue": refusal(lambda: modal.Queue.from_name("x", create_if_missing=True).put(1)),
        "lookup": refusal(lambda: modal.Function.from_name("permissions-deployed", "echo").remote("x")),
        "volume": refusal(lambda: modal.Volume.from_name("permissions").listdir("/")),
        "forward": refusal(lambda: modal.forward(8000).__enter__()),
        "reply": b"y" * (4 << 20),
    }


def check_a_restricted_function_works_on_its_inputs_and_does_nothing_else() -> None:
    done = restricted.remote(b"x" * (4 << 20))
    assert done.pop("large") == 4 << 20
    assert len(done.pop("reply")) == 4 << 20  # type: ignore[arg-type]
    for what, said in done.items():
        assert "restrict_modal_access" in str(said), (what, said)


@app.cls(restrict_modal_access=True)
class Confined:
    @modal.method()
    def count(self, limit: int):
        yield from range(limit)

    @modal.method()
    def call(self) -> str:
        return refusal(lambda: double.remote(2))


def check_restricted_classes_and_generators() -> None:
    assert list(Confined().count.remote_gen(4)) == [0, 1, 2, 3]
    assert "restrict_modal_access" in Confined().call.remote()
