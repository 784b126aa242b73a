"""`pilotlight backup` and `pilotlight restore`."""

import asyncio
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import click

from pilotlight.backup import databases
from pilotlight.backup.archive import Manifest, Part
from pilotlight.backup.restoring import Keys
from pilotlight.backup.restoring import restore as restored
from pilotlight.backup.writing import KEYS, VOLUMES, Wish, refuse_target, write
from pilotlight.cli.control import ask
from pilotlight.cli.options import settings_for, state_flag, state_option
from pilotlight.cli.tables import moment
from pilotlight.config import Settings
from pilotlight.core.errors import Busy, NotFound
from pilotlight.supervisor import lock
from pilotlight.supervisor.start import require_root, running_settings
from pilotlight.wire.platform_grpc import ControlStub
from pilotlight.wire.platform_pb2 import BackupRequest

LIMIT_S = 7 * 24 * 3600.0

Work = Callable[[Path, threading.Event], Manifest]


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--with-key", is_flag=True, help="With all keys: whoever has the file can read the secrets in it.")
@click.option("--without-volumes", is_flag=True, help="Without the files of volumes; only their names come back.")
@state_option
def backup(*, file: Path, with_key: bool, without_volumes: bool, state: Path | None) -> None:
    """Write all that the platform keeps to FILE, whether it runs or not.

    Programs go on meanwhile. FILE holds one moment of the database, and every file that it refers to. Without --with-key it
    holds no keys: keep a copy of the directory `keys` elsewhere.
    """
    require_root("files of images and volumes belong to many users")
    settings = running_settings(settings_for(state))
    if not settings.database_path.exists():
        raise NotFound(f"There is no platform in {settings.state}: nothing to back up.")
    target = file.absolute()
    refuse_target(target, settings)
    wish = Wish(with_keys=with_key, with_volumes=not without_volumes)

    def work(snapshot: Path, abandoned: threading.Event) -> Manifest:
        return write(target, snapshot, settings, wish, told=_tell, abandoned=abandoned)

    manifest = _while_it_runs(settings, work) if lock.holder(settings) is not None else _while_it_does_not(settings, work)
    for note in manifest.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(f"{target}: {target.stat().st_size / 2**20:.1f} MiB, schema {manifest.schema}, {_summary(manifest)}.")
    if not with_key:
        click.echo(f"It holds no keys. Without a copy of {settings.keys_dir} nobody can read its secrets.")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--keys", type=click.Path(path_type=Path, file_okay=False), help="A copy of the `keys` directory, if FILE has none.")
@click.option("--without-keys", is_flag=True, help="Go on without keys: secrets and webhooks can't be read then.")
@state_option
def restore(*, file: Path, keys: Path | None, without_keys: bool, state: Path | None) -> None:
    """Make a state directory, which must be empty or not be there, of the backup FILE."""
    require_root("files of images and volumes belong to many users")
    settings = settings_for(state)
    manifest = restored(file.absolute(), settings.state, Keys(keys, without_keys), told=_tell)
    click.echo(f"{settings.state} is as it was at {moment(manifest.created_at)}: {_summary(manifest)}.")
    for note in manifest.notes:
        click.echo(f"Note: {note}")
    if not manifest.has(VOLUMES) and manifest.counts.get("volumes"):
        click.echo("The backup was made without the files of volumes: they are empty.")
    if settings.volumes_dir is not None and manifest.has(VOLUMES):
        click.echo(f"Volumes are in {settings.state / 'volumes'}, and PILOTLIGHT_VOLUMES_DIR says otherwise: move them there.")
    if not manifest.has(KEYS):
        click.echo(
            f"Tokens that were handed out work as before; the next start also writes a new one to {settings.first_token_path}."
        )
    click.echo(f"Start it: pilotlight up --detach{state_flag(settings)}")


def _while_it_runs(settings: Settings, work: Work) -> Manifest:
    """The server copies its databases and sweeps nothing for as long as the question is open."""

    async def question(control: ControlStub) -> Manifest:
        async with control.Backup.open() as stream:
            await stream.send_message(BackupRequest(), end=True)
            if (reply := await stream.recv_message()) is None:
                raise Busy("The server ended before it had copied its databases. Run this again.")
            abandoned = threading.Event()
            writing = asyncio.create_task(asyncio.to_thread(work, Path(reply.directory), abandoned))
            gone = asyncio.create_task(stream.recv_message())
            try:
                await asyncio.wait((writing, gone), return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not writing.done():  # the server ended, or this was interrupted: what is to be read may be swept from now on
                    abandoned.set()
                gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            manifest = await writing
            await stream.cancel()
            return manifest

    return ask(settings, question, timeout_s=LIMIT_S)


def _while_it_does_not(settings: Settings, work: Work) -> Manifest:
    """Nobody can start it meanwhile."""
    with _held(settings):
        snapshot = settings.snapshots_dir / "offline"
        try:
            snapshot.mkdir(mode=0o700, parents=True)
            for path in (settings.database_path, settings.log_database_path):
                if path.exists():
                    databases.copy(path, snapshot / path.name)
            return work(snapshot, threading.Event())
        finally:
            shutil.rmtree(settings.snapshots_dir, ignore_errors=True)


@contextmanager
def _held(settings: Settings) -> Generator[None]:
    held = lock.take(settings)
    if held is None:
        raise Busy(f"The platform of {settings.state} is just starting. Run this again in a few seconds.")
    try:
        yield
    finally:
        held.release()


def _tell(part: Part) -> None:
    click.echo(f"  {part.name:<16}{part.size_bytes / 2**20:>12.1f} MiB")


def _summary(manifest: Manifest) -> str:
    return ", ".join(f"{count} {name}" for name, count in manifest.counts.items() if count) or "nothing in it"
