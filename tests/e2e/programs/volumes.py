"""Volumes in containers: what one writes the other reads, commits and reloads, read-only mounts, directories of volumes, builds."""

import contextlib
import io
import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal

app = modal.App("volumes")
first = modal.Volume.from_name("volumes-first", create_if_missing=True)
second = modal.Volume.from_name("volumes-second", create_if_missing=True, version=2)
built = modal.Volume.from_name("volumes-built", create_if_missing=True)
plain = modal.Image.debian_slim()
NEWEST = not modal.__version__.startswith("1.1.")


def newest_only(check: Any) -> Any:
    check.newest_only = True
    return check


@contextlib.contextmanager
def raises(*kinds: type[BaseException], match: str) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        assert match in str(error), error
    else:
        raise AssertionError("nothing was raised")


def read(volume: Any, path: str) -> bytes:
    return b"".join(volume.read_file(path))


@app.function(image=plain, volumes={"/data": first, "/mnt/deep/second": second})
def write(path: str, content: str) -> tuple[int, int, int]:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content)
    first.commit()
    second.commit()
    found = target.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


@app.function(image=plain, volumes={"/other": first, "/second": second})
def read_in_container(path: str) -> str:
    first.reload()
    return Path(path).read_text()


@app.function(image=plain, volumes={"/data": first})
def reload_with_open_file(how: str) -> str:
    path = Path("/data/opened")
    path.write_text("opened")
    child: Any = None
    if how == "file":
        kept: Any = path.open()
    elif how == "directory":
        os.chdir("/data")
    else:
        child = subprocess.Popen(["tail", "-f", "/data/opened"], stdout=subprocess.PIPE)
        child.stdout.read(1)  # it has the file open now
    try:
        first.reload()
    except RuntimeError as error:
        said = str(error)
    else:
        said = "reloaded"
    os.chdir("/")
    if how == "file":
        kept.close()
    if child:
        child.kill()
        child.wait()
    first.reload()
    return said


@app.function(image=plain, volumes={"/data": first})
def look_around() -> dict[str, Any]:
    volume_id = first.object_id
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return {
        "mounted": os.path.realpath("/data") == f"/__modal/volumes/{volume_id}",
        "listed": [path.name for path in Path("/__modal/volumes").iterdir()] == [volume_id],
        "options": [fields[3] for fields in mounts if fields[1].startswith("/__modal")],
    }


@app.function(image=plain, volumes={"/data": first})
def plant() -> None:
    base = Path("/data/planted")
    base.mkdir(exist_ok=True)
    for name, target in {"etc": "/etc", "passwd": "/etc/passwd", "up": "../../..", "own": "target", "root": "/"}.items():
        with contextlib.suppress(FileExistsError):
            (base / name).symlink_to(target)
    (base / "target").write_text("fine")
    with contextlib.suppress(FileExistsError):
        os.mkfifo(base / "pipe")
    server = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        server.bind(str(base / "socket"))
    (base / "mode").write_text("x")
    (base / "mode").chmod(0)
    os.chown(base / "mode", 1234, 1234)


@app.function(image=plain.run_commands("mkdir -p /full && touch /full/file"), volumes={"/full": first})
def not_empty() -> None:
    pass


@app.function(image=plain.run_commands("mkdir -p /made/empty"), volumes={"/made/empty": first})
def over_empty_directory() -> str:
    Path("/made/empty/over").write_text("over")
    return Path("/made/empty/over").read_text()


build_step = plain
if NEWEST:
    build_step = plain.run_commands("echo built > /vol/from_build && ls -d /vol > /listed", volumes={"/vol": built})


@app.function(image=build_step)
def see_layer() -> tuple[str, bool]:
    return Path("/listed").read_text() if NEWEST else "", Path("/vol").exists()


@app.cls(image=plain, volumes={"/data": first})
class Writer:
    @modal.exit()
    def leave(self) -> None:
        Path("/data/at_exit").write_text("left")

    @modal.method()
    def work(self) -> str:
        import modal.experimental

        modal.experimental.stop_fetching_inputs()
        return "done"


def check_written_here_read_there() -> None:
    stamp = str(time.time_ns())
    assert write.remote("/data/a/b.txt", stamp) == (0, 0, 0o644)
    assert read_in_container.remote("/other/a/b.txt") == stamp
    assert read(first, "a/b.txt") == stamp.encode()
    assert write.remote("/mnt/deep/second/x", stamp)[0] == 0
    assert read_in_container.remote("/second/x") == stamp
    assert read(second, "x") == stamp.encode()


def check_sent_from_outside() -> None:
    large = os.urandom(3 << 20) * 6
    with second.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"sent"), "in/sent")
        batch.put_file(io.BytesIO(large), "in/large", mode=0o600)
    assert read_in_container.remote("/second/in/sent") == "sent"
    assert read(second, "in/large") == large


def check_reload_with_open_files() -> None:
    message = "there are open files preventing the operation"
    assert reload_with_open_file.remote("file") == f"{message}: path opened is open"
    assert reload_with_open_file.remote("directory") == f"{message}: cwd is inside volume"
    assert reload_with_open_file.remote("child").startswith(message + ": path opened is open from 'tail")


def check_where_volumes_are() -> None:
    found = look_around.remote()
    assert found["mounted"] and found["listed"], found
    [options] = found["options"]
    assert {"rw", "nosuid", "nodev"} <= set(options.split(",")), options


def check_only_containers_commit() -> None:
    for act in (first.commit, first.reload):
        with raises(RuntimeError, match="not mounted"):
            act()


def check_planted_links_lead_nowhere() -> None:
    plant.remote()
    for path in ("etc/passwd", "passwd", "up/etc/passwd", "root/etc/passwd", "own", "pipe", "socket"):
        with raises(Exception, match="planted"):
            read(first, f"planted/{path}")
    for path in ("etc", "up", "root", "etc/passwd"):
        with raises(Exception, match="planted"), first.batch_upload(force=True) as batch:
            batch.put_file(io.BytesIO(b"evil"), f"planted/{path}/evil")
    types = {entry.path: entry.type.name for entry in first.iterdir("planted")}
    assert types["planted/etc"] == "SYMLINK" and types["planted/pipe"] == "FIFO", types
    assert not any(path.startswith("planted/etc/") for path in types)
    assert read(first, "planted/mode") == b"x"


def check_over_an_empty_directory() -> None:
    assert over_empty_directory.remote() == "over"


def check_not_over_files() -> None:
    with raises(Exception, match="non-empty path"):
        not_empty.remote()


def check_commit_at_exit() -> None:
    assert Writer().work.remote() == "done"
    for _ in range(2000):
        if any(entry.path == "at_exit" for entry in first.listdir("/")):
            break
        time.sleep(0.05)
    assert read(first, "at_exit") == b"left"


@newest_only
def check_volume_in_build() -> None:
    assert see_layer.remote() == ("/vol\n", False)
    assert read(built, "from_build") == b"built\n"


if NEWEST:
    read_only = first.with_mount_options(read_only=True)
    part = second.with_mount_options(sub_path="users/me")

    @app.function(image=plain, volumes={"/data": read_only, "/mine": part})
    def restricted() -> dict[str, Any]:
        found: dict[str, Any] = {}
        try:
            Path("/data/new").write_text("x")
        except OSError as error:
            found["error"] = error.strerror
        Path("/mine/file").write_text("mine")
        Path("/mine/../other").write_text("not in the volume")
        found["listed"] = [path.name for path in Path("/mine").iterdir()]
        return found

    @newest_only
    def check_mount_options() -> None:
        found = restricted.remote()
        assert found == {"error": "Read-only file system", "listed": ["file"]}, found
        assert read(second, "users/me/file") == b"mine"
        assert [entry.path for entry in second.iterdir("users")] == ["users/me", "users/me/file"]

else:
    read_only_1 = first.read_only()

    @app.function(image=plain, volumes={"/data": read_only_1})
    def restricted_1() -> str:
        try:
            Path("/data/new").write_text("x")
        except OSError as error:
            return str(error.strerror)
        return "written"

    def check_read_only() -> None:
        assert restricted_1.remote() == "Read-only file system"
