"""Secrets, dicts, queues and environments as a program uses them, in containers and outside."""

import contextlib
import importlib.util
import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

import modal

app = modal.App("state")
DEADLINE_S = 100
RUN = f"{os.getpid()}"

first = modal.Secret.from_dict({"ONE": "1", "BOTH": "first"})
second = modal.Secret.from_dict({"BOTH": "second", "TWO": "2"})
os.environ["LOCAL_ONE"] = "here"
local = modal.Secret.from_local_environ(["LOCAL_ONE"]) if modal.is_local() else modal.Secret.from_dict({})
Path("/tmp/pilotlight-state-test").mkdir(exist_ok=True)
(Path("/tmp/pilotlight-state-test") / ".env").write_text("DOTENV=dot\nQUOTED='a b'\n")
HAS_DOTENV = importlib.util.find_spec("dotenv") is not None  # the client needs it, and does not bring it along
dotenv = modal.Secret.from_dotenv("/tmp/pilotlight-state-test") if modal.is_local() and HAS_DOTENV else modal.Secret.from_dict({})
at_build = modal.Secret.from_dict({"AT_BUILD": "seen by the build"})
STEPS = ('test "$AT_BUILD" = "seen by the build"', "echo $AT_BUILD > /built")
built = modal.Image.debian_slim().run_commands(*STEPS, secrets=[at_build])


@app.function(secrets=[first, second, local, dotenv])
def environment() -> dict[str, str]:
    return {name: os.environ.get(name, "") for name in ("ONE", "TWO", "BOTH", "LOCAL_ONE", "DOTENV", "QUOTED")}


@app.function()
def others() -> tuple[str, list[str]]:
    """All environments of processes that a container without secrets can see."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(PermissionError):  # of the first process, where this one was forked
            found.append(path.read_bytes().decode(errors="replace"))
    assert found  # its own
    return os.environ.get("ONE", ""), found


@app.function(image=built)
def of_the_build() -> tuple[str, str]:
    return Path("/built").read_text().strip(), os.environ.get("AT_BUILD", "")


def check_several_secrets_of_a_function() -> None:
    dot = {"DOTENV": "dot", "QUOTED": "a b"} if HAS_DOTENV else {"DOTENV": "", "QUOTED": ""}
    assert environment.remote() == {"ONE": "1", "TWO": "2", "BOTH": "second", "LOCAL_ONE": "here", **dot}


def check_other_containers_see_none() -> None:
    own, seen = others.remote()
    assert own == ""
    assert not any("BOTH=" in one or "swordfish" in one for one in seen), seen


def check_secrets_of_a_build_are_not_in_the_image_s_environment() -> None:
    assert of_the_build.remote() == ("seen by the build", "")


@app.function()
def work(jobs: modal.Queue, results: modal.Queue, seen: modal.Dict) -> int:
    """Take jobs until there is a None; returns how many."""
    done = 0
    while (job := jobs.get(timeout=DEADLINE_S)) is not None:
        seen[job] = os.environ["MODAL_TASK_ID"]
        results.put(job * job)
        done += 1
    return done


def check_queues_and_dicts_between_containers() -> None:
    with modal.Queue.ephemeral() as jobs, modal.Queue.ephemeral() as results, modal.Dict.ephemeral() as seen:
        workers = [work.spawn(jobs, results, seen) for _ in range(2)]
        jobs.put_many(list(range(20)))
        squares = sorted(results.get(timeout=DEADLINE_S) for _ in range(20))
        jobs.put_many([None, None])
        assert squares == [number * number for number in range(20)]
        assert sum(worker.get() for worker in workers) == 20
        assert sorted(seen.keys()) == list(range(20)) and seen.len() == 20


def check_a_queue_that_is_full_holds_up_who_puts() -> None:
    with modal.Queue.ephemeral() as full:
        full.put_many([0] * 5_000)
        for wish in ({"timeout": 1.0}, {"block": False}):
            try:
                full.put(1, **wish)
            except queue.Full:
                continue
            raise AssertionError("there was no room")
        taker = threading.Timer(0.5, lambda: full.get_many(100))
        taker.start()
        full.put_many([1] * 50, timeout=DEADLINE_S)
        taker.join()
        assert full.len() == 4_950


def check_partitions() -> None:
    with modal.Queue.ephemeral() as parts:
        parts.put("a1", partition="a")
        parts.put_many(["b1", "b2"], partition="b")
        parts.put("none")
        assert (parts.len(partition="a"), parts.len(), parts.len(total=True)) == (1, 1, 4)
        assert parts.get_many(5, partition="b") == ["b1", "b2"]
        parts.put("brief", partition="c", partition_ttl=1)
        deadline = time.monotonic() + DEADLINE_S
        while parts.len(partition="c"):
            assert time.monotonic() < deadline, "it outlives its time"
        assert parts.get(partition="c", block=False) is None
        parts.clear(all=True)
        assert parts.len(total=True) == 0


def check_items_and_values_of_a_megabyte() -> None:
    item = os.urandom((1 << 20) - 64)
    with modal.Queue.ephemeral() as big, modal.Dict.ephemeral() as kept:
        big.put_many([item] * 8)
        assert all(one == item for one in big.get_many(8))
        value = os.urandom(20 << 20)
        kept["big"] = value
        assert kept["big"] == value
        assert dict(kept.items()) == {"big": value}


def check_a_named_dict_is_found_by_others() -> None:
    name = f"state-{RUN}"
    modal.Dict.from_name(name, create_if_missing=True)["k"] = {"deep": [1]}
    assert peek.remote(name) == {"deep": [1]}
    assert modal.Dict.from_name(name).pop("k") == {"deep": [1]}
    modal.Dict.delete(name) if not hasattr(modal.Dict, "objects") else modal.Dict.objects.delete(name)


@app.function()
def peek(name: str) -> Any:
    return modal.Dict.from_name(name).get("k")
