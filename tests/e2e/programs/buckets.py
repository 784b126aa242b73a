"""Buckets in containers: written, read, listed, below a prefix, read-only, and what is said where they can't be had."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal

app = modal.App("buckets")
ENDPOINT = os.environ.get("S3_ENDPOINT", "http://127.0.0.1:1")
MIB = 1 << 20
NEWEST = not modal.__version__.startswith("1.1.")
keys = modal.Secret.from_dict({"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"})
strangers = modal.Secret.from_dict({"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "S3RVER"})


def bucket(name: str = "things", secret: modal.Secret | None = keys, endpoint: str = ENDPOINT, **options: Any) -> Any:
    style = {"force_path_style": True} if NEWEST else {}
    return modal.CloudBucketMount(name, bucket_endpoint_url=endpoint, secret=secret, **style, **options)


@contextlib.contextmanager
def raises(kind: type[BaseException], *parts: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        assert all(part in str(error) for part in parts), error
    else:
        raise AssertionError("nothing was raised")


@app.function(volumes={"/bucket": bucket()})
def write(path: str, size: int) -> list[int]:
    target = Path("/bucket", path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(os.urandom(size))
    found = target.stat()
    return [found.st_uid, found.st_gid, found.st_size]


@app.function(volumes={"/bucket": bucket()})
def digest(path: str) -> str:
    import hashlib

    return hashlib.sha256(Path("/bucket", path).read_bytes()).hexdigest()


@app.function(volumes={"/bucket": bucket()})
def change() -> None:
    kept = Path("/bucket/changes")
    kept.mkdir(exist_ok=True)
    (kept / "one").write_text("1")
    (kept / "one").rename(kept / "two")
    (kept / "three").write_text("3")
    (kept / "three").write_text("three")
    (kept / "four").write_text("4")
    (kept / "four").unlink()
    assert sorted(path.name for path in kept.iterdir()) == ["three", "two"]
    with raises(OSError), (kept / "two").open("ab") as file:
        file.write(b"more")


@app.function(volumes={"/part": bucket(key_prefix="part/", read_only=True), "/all": bucket()})
def look(name: str) -> tuple[list[str], str]:
    Path("/all/part").mkdir(exist_ok=True)
    Path("/all/part", name).write_text("below a prefix")
    with raises(OSError, "Read-only"):
        Path("/part/new").write_text("")
    return sorted(path.name for path in Path("/part").iterdir()), Path("/part", name).read_text()


@app.function(volumes={"/bucket": bucket()})
def inspect() -> list[str]:
    """What a container could find of the credentials."""
    places = [Path("/proc/1/environ"), Path("/proc/self/environ"), Path("/proc/self/mountinfo")]
    found: list[str] = []
    for place in places:
        with contextlib.suppress(PermissionError):  # the init of a forked container lets nobody look
            found += [str(place)] if b"S3RVER" in place.read_bytes() else []
    return found


@app.function(volumes={"/bucket": bucket(secret=strangers)}, retries=0)
def refused() -> None: ...


@app.function(volumes={"/bucket": bucket("absent")}, retries=0)
def absent() -> None: ...


@app.function(volumes={"/bucket": bucket()})
def wait() -> None:
    import threading

    print(f"mounted: {Path('/bucket').is_dir()}", flush=True)
    threading.Event().wait()


def check_what_is_written_is_there_for_others() -> None:
    assert write.remote("deep/er/small", 7) == [0, 0, 7]
    assert write.remote("large", 21 * MIB + 1) == [0, 0, 21 * MIB + 1]
    assert len(digest.remote("large")) == 64


def check_files_are_replaced_renamed_removed_and_not_appended_to() -> None:
    change.remote()


def check_a_prefix_read_only() -> None:
    assert look.remote("name") == (["name"], "below a prefix")


def check_credentials_stay_outside() -> None:
    assert inspect.remote() == []


def check_a_wrong_key_is_told() -> None:
    with raises(modal.exception.Error, "Bucket 'things'", "can't be mounted at '/bucket'", "InvalidAccessKeyId"):
        refused.remote()


def check_a_bucket_that_is_not_there_is_told() -> None:
    with raises(modal.exception.Error, "Bucket 'absent'", "not found"):
        absent.remote()


def check_what_is_not_built_is_refused_by_name() -> None:
    other = modal.App("buckets-refused")
    other.function(serialized=True, volumes={"/bucket": bucket(requester_pays=True)})(lambda: None)
    with raises(Exception, "requester_pays", "not built yet"), other.run():
        pass


@app.local_entrypoint()
def stay() -> None:
    wait.remote()
