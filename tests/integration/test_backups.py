"""Backups of a platform that works, and what becomes of them: whole platforms, or refusals that leave nothing."""

import asyncio
import io
import os
import sqlite3
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import modal
import pytest
from click.testing import CliRunner, Result
from platform_in_process import Platform

from pilotlight.backup import archive, databases, trees
from pilotlight.backup.archive import Reader
from pilotlight.cli import backups, main
from pilotlight.config import Settings
from pilotlight.core.errors import Busy
from pilotlight.store.schema import known
from pilotlight.supervisor import lock
from pilotlight.wire.platform_pb2 import BackupReply

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a backup keeps owners")

app = modal.App("kept")
LARGE = b"large" * (1 << 20)
BLOB = "blobs/bl-1"


@app.function(serialized=True)
def double(number: int) -> int:
    return 2 * number


@app.function(serialized=True, secrets=[modal.Secret.from_name("db")])
def secret() -> str:
    import os

    return os.environ["PASSWORD"]


@dataclass(frozen=True)
class Backup:
    """A backup with keys, and what was in the platform when it was made."""

    path: Path
    result_id: str
    written: int  # rows that a program had been told are there when the backup began
    keys: Path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


async def left_alone(platform: Platform) -> None:
    """Return once no backup is under way any more."""
    async with platform.server.garbage.paused():
        return


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backup]:
    """Made while a program writes as fast as it can."""
    place = tmp_path_factory.mktemp("backups")
    platform = Platform()
    platform.start()
    with closing(SimpleNamespace(close=platform.stop)):
        with pytest.MonkeyPatch.context() as patch:
            made = _make(platform, place, patch)
        yield made


def _make(platform: Platform, place: Path, patch: pytest.MonkeyPatch) -> Backup:
    patch.setenv("MODAL_SERVER_URL", platform.url)
    patch.setattr("pilotlight.cli.backups.running_settings", lambda _: platform.settings)
    patch.setattr("pilotlight.cli.backups.lock.holder", lambda _: lock.Running(1, "", ""))
    client = modal.Client.from_credentials(*platform.token)
    modal.Secret.objects.create("db", {"PASSWORD": "hunter2"}, client=client)
    app.deploy(client=client)
    result = double.spawn(21)
    assert result.get(timeout=60) == 42
    platform.call(platform.server.objects.put(BLOB, LARGE))
    (platform.settings.volumes_path / "vo-1").mkdir()
    made = platform.settings.volumes_path / "vo-1" / "file"
    made.write_text("bytes")
    os.chown(made, 1234, 4321)
    made.chmod(0o640)
    os.setxattr(made, "user.note", b"kept")
    (made.parent / "link").symlink_to("/etc/passwd")
    kept = modal.Dict.from_name("kept", create_if_missing=True, client=client)
    kept["rows"] = 0
    rows, is_over = 0, threading.Event()

    def write() -> None:
        nonlocal rows
        while not is_over.is_set():
            kept["rows"] = rows + 1
            rows += 1

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    while rows < 5:
        time.sleep(0.01)
    written = rows
    done = run("backup", place / "full.tar", "--with-key")
    after = rows
    bare = run("backup", place / "bare.tar", "--without-volumes")
    is_over.set()
    writer.join()
    assert done.exit_code == 0, done.output
    assert bare.exit_code == 0, bare.output
    assert "It holds no keys" in bare.output and "It holds no keys" not in done.output
    assert rows > after >= written, "who writes is not held up"
    platform.call(left_alone(platform))
    assert not any(platform.settings.snapshots_dir.iterdir())
    keys = place / "keys"
    subprocess.run(["cp", "-a", platform.settings.keys_dir, keys], check=True)
    return Backup(place / "full.tar", result.object_id, written, keys)


@pytest.fixture
def at(tmp_path: Path) -> Iterator[list[str]]:
    """Where to restore to."""
    yield ["--state", str(tmp_path / "new")]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [], "nothing is left"


def test_a_restored_platform_has_all_there_was_and_works(backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    state = Path(os.environ.get("TMPDIR", "/tmp")) / f"pl-{os.getpid()}"
    done = run("restore", backup.path, "--state", state)
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    platform = Platform(state=state)
    platform.start()
    try:
        monkeypatch.setenv("MODAL_SERVER_URL", platform.url)
        client = modal.Client.from_credentials(*platform.token)
        found = modal.FunctionCall.from_id(backup.result_id, client=client)
        assert found.get(timeout=30) == 42
        assert platform.call(platform.server.objects.get(BLOB)) == LARGE
        assert modal.Function.from_name("kept", "double", client=client).remote(4) == 8
        assert modal.Function.from_name("kept", "secret", client=client).remote() == "hunter2"
        assert modal.Dict.from_name("kept", client=client)["rows"] >= backup.written
        file = platform.settings.volumes_path / "vo-1" / "file"
        status = file.stat()
        assert (file.read_text(), status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == ("bytes", 1234, 4321, 0o640)
        assert os.getxattr(file, "user.note") == b"kept"
        assert (file.parent / "link").readlink() == Path("/etc/passwd")
    finally:
        platform.stop()


def test_the_archive_is_a_tar_that_only_its_owner_reads_with_no_key_unless_asked(backup: Backup) -> None:
    for path in (backup.path, backup.path.with_name("bare.tar")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(backup.path) as full, tarfile.open(backup.path.with_name("bare.tar")) as bare:
        assert set(full.getnames()) - set(bare.getnames()) == {"keys.tar", "volumes.tar"}
        assert full.getnames()[-2:] == ["manifest.json", "manifest.sha256"]
    key = (backup.keys / "secrets.key").read_bytes()
    assert key in backup.path.read_bytes()
    assert key not in backup.path.with_name("bare.tar").read_bytes()
    with closing(Reader(backup.path)) as reader:
        manifest = reader.manifest
    assert (manifest.schema, manifest.counts["secrets"], manifest.counts["functions"]) == (known()[0], 1, 2)


def test_sealed_values_are_not_given_up_by_accident(backup: Backup, at: list[str], tmp_path: Path) -> None:
    bare = backup.path.with_name("bare.tar")
    refused = run("restore", bare, *at)
    assert refused.exit_code == 1 and "1 secrets" in refused.output and "--keys DIR" in refused.output
    assert not (tmp_path / "new").exists()
    wrong = run("restore", bare, *at, "--keys", tmp_path)
    assert wrong.exit_code == 1 and "secrets.key" in wrong.output
    assert not (tmp_path / "new").exists()
    done = run("restore", bare, *at, "--keys", backup.keys)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new" / "keys" / "secrets.key").read_bytes() == (backup.keys / "secrets.key").read_bytes()
    assert stat.S_IMODE((tmp_path / "new" / "keys" / "secrets.key").stat().st_mode) == 0o600
    assert run("restore", bare, "--state", tmp_path / "third", "--without-keys").exit_code == 0
    assert not (tmp_path / "third" / "keys").exists()


def test_a_place_in_use_is_refused_and_untouched(backup: Backup, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused = run("restore", backup.path, "--state", tmp_path)
    assert refused.exit_code == 1 and "is not empty" in refused.output
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "mine")]
    empty = tmp_path.parent / f"{tmp_path.name}-empty"
    empty.mkdir()
    assert run("restore", backup.path, "--state", empty).exit_code == 0


@pytest.mark.parametrize("where", [0.0, 0.01, 0.3, 0.6, 0.95])
def test_a_damaged_archive_is_refused_wherever_it_is_damaged(backup: Backup, at: list[str], tmp_path: Path, where: float) -> None:
    data = bytearray(backup.path.read_bytes())
    position = int(len(data) * where)
    data[position] ^= 0x40
    (tmp_path / "damaged.tar").write_bytes(data)
    refused = run("restore", tmp_path / "damaged.tar", *at)
    assert refused.exit_code == 1 and "damaged" in refused.output, refused.output
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("part", ["pilotlight.db", "objects.tar", "manifest.json", "manifest.sha256"])
def test_each_part_is_held_against_its_digest(backup: Backup, at: list[str], tmp_path: Path, part: str) -> None:
    data = bytearray(backup.path.read_bytes())
    with tarfile.open(backup.path) as full:
        member = full.getmember(part)
    data[member.offset_data + member.size // 2] ^= 0x01
    (tmp_path / "damaged.tar").write_bytes(data)
    refused = run("restore", tmp_path / "damaged.tar", *at)
    assert refused.exit_code == 1 and "damaged" in refused.output and not (tmp_path / "new").exists()


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.9, 0.999])
def test_an_archive_that_ends_early_is_refused(backup: Backup, at: list[str], tmp_path: Path, kept: float) -> None:
    data = backup.path.read_bytes()
    (tmp_path / "short.tar").write_bytes(data[: int((len(data) - 4096) * kept)])
    refused = run("restore", tmp_path / "short.tar", *at)
    assert refused.exit_code == 1 and "damaged" in refused.output and not (tmp_path / "new").exists()


@pytest.mark.parametrize(("change", "says"), [({"schema": "9999"}, "schema 9999"), ({"format": 2}, "format 2")])
def test_what_a_newer_version_made_is_refused_by_name(
    backup: Backup, at: list[str], tmp_path: Path, change: dict[str, object], says: str
) -> None:
    with closing(Reader(backup.path)) as reader:
        newer = replace(reader.manifest, **change)  # type: ignore[arg-type]
    with (tmp_path / "newer.tar").open("wb") as file:
        archive.Writer(file).finish(newer)
    refused = run("restore", tmp_path / "newer.tar", *at)
    assert refused.exit_code == 1 and says in refused.output and not (tmp_path / "new").exists()


def test_a_database_that_was_damaged_when_it_was_backed_up_is_told(backup: Backup, at: list[str], tmp_path: Path) -> None:
    with closing(Reader(backup.path)) as reader:
        manifest = reader.manifest
    with (tmp_path / "bad.tar").open("wb") as file:
        writer = archive.Writer(file)
        part = writer.add("pilotlight.db", iter((b"no database" * 1000,)))
        writer.finish(replace(manifest, parts=(part,), counts={}))
    refused = run("restore", tmp_path / "bad.tar", *at)
    assert refused.exit_code == 1 and "was damaged when" in refused.output and not (tmp_path / "new").exists()


def test_a_stopped_platform_is_backed_up_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state=tmp_path / "state")
    settings.state.mkdir()
    with closing(sqlite3.connect(settings.database_path)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (known()[0],))
        connection.commit()
    done = run("backup", tmp_path / "cold.tar", "--state", settings.state)
    assert done.exit_code == 0, done.output
    again = run("restore", tmp_path / "cold.tar", "--state", tmp_path / "new")
    assert again.exit_code == 0, again.output
    assert databases.schema_of(tmp_path / "new" / "pilotlight.db") == known()[0]
    assert not settings.snapshots_dir.exists() and lock.holder(settings) is None


@pytest.mark.parametrize("name", ["state/within.tar", "there.tar", "nowhere/file.tar"])
def test_names_that_make_no_sense_are_refused(tmp_path: Path, name: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "pilotlight.db").write_bytes(b"")
    (tmp_path / "there.tar").write_text("mine")
    assert run("backup", tmp_path / name, "--state", state).exit_code == 1
    assert (tmp_path / "there.tar").read_text() == "mine"
    assert run("backup", tmp_path / "new.tar", "--state", tmp_path / "none").exit_code == 1


def test_a_full_disk_leaves_no_half_backup(backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: archive.Writer, name: str, blocks: Iterator[bytes]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.Writer, "add", full)
    state = tmp_path / "state"
    state.mkdir()
    with closing(sqlite3.connect(state / "pilotlight.db")) as connection:
        connection.execute("CREATE TABLE numbers (number INTEGER)")
    done = run("backup", tmp_path / "out.tar", "--state", state)
    assert done.exit_code == 1 and "No space left" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


def test_a_backup_that_is_interrupted_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The server sweeps again once nobody asks: what goes on to be written would lack files."""
    begun, heard = threading.Event(), list[bool]()

    class Stream:
        replies = 0

        async def __aenter__(self) -> "Stream":
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def send_message(self, message: object, *, end: bool) -> None: ...

        async def recv_message(self) -> BackupReply:
            self.replies += 1
            if self.replies > 1:
                await asyncio.Event().wait()
            return BackupReply(directory=str(tmp_path))

    def work(snapshot: Path, abandoned: threading.Event) -> archive.Manifest:
        begun.set()
        heard.append(abandoned.wait(5))
        raise Busy("given up")

    def ask(settings: Settings, question: Callable[[SimpleNamespace], Awaitable[object]], **_: object) -> None:
        async def asking() -> None:
            asked = asyncio.ensure_future(question(SimpleNamespace(Backup=SimpleNamespace(open=Stream))))
            await asyncio.to_thread(begun.wait)
            asked.cancel()
            await asked

        asyncio.run(asking())

    monkeypatch.setattr(backups, "ask", ask)
    with pytest.raises(asyncio.CancelledError):
        backups._while_it_runs(Settings(state=tmp_path), work)
    assert heard == [True]


def test_files_that_change_while_they_are_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "growing").write_bytes(b"x" * (8 << 20))
    packing = trees.Packing(tmp_path)
    packed = io.BytesIO()
    for number, block in enumerate(packing.blocks()):
        packed.write(block)
        if number == 0:
            with (tmp_path / "growing").open("ab") as file:
                file.write(b"more")
    assert "growing" in packing.changed


def test_sparse_files_and_special_ones_come_back_as_they_were(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(), target.mkdir()
    with (source / "sparse").open("wb") as file:
        file.truncate(64 << 20)
    os.mknod(source / "whiteout", 0o600 | stat.S_IFCHR, os.makedev(0, 0))
    os.setxattr(source, "trusted.overlay.opaque", b"y")
    (source / "a").write_text("one")
    os.link(source / "a", source / "b")
    with trees.Unpacking(target) as unpacking:
        for block in trees.Packing(source).blocks():
            unpacking.write(block)
    assert (target / "sparse").stat().st_size == 64 << 20 and (target / "sparse").stat().st_blocks < 1000
    assert stat.S_ISCHR((target / "whiteout").stat().st_mode)
    assert os.getxattr(target, "trusted.overlay.opaque") == b"y"
    assert (target / "a").stat().st_ino == (target / "b").stat().st_ino
