"""`pilotlight image import | list | rm`: base images of one's own, for machines that no registry reaches."""

import asyncio
from pathlib import Path

import click

from pilotlight.cli.options import settings_for, state_option
from pilotlight.cli.tables import moment, show_table
from pilotlight.images.local import LocalImages
from pilotlight.supervisor.start import require_root


@click.group()
def image() -> None:
    """Import, list and remove base images of this machine."""


@image.command("import")
@click.argument("reference", metavar="REF")
@click.argument("path", type=click.Path(path_type=Path))
@state_option
def import_image(reference: str, path: Path, state: Path | None) -> None:
    """Make PATH (an OCI layout, a docker archive or a root directory) the base image that REF names."""
    require_root("importing an image keeps the owners of its files")
    settings = settings_for(state)
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    images = LocalImages(settings)
    imported = asyncio.run(images.import_image(reference, path))
    click.echo(f"{imported.reference} is here ({images.size_bytes(imported) / 2**20:.0f} MiB): Image.from_registry({reference!r})")


@image.command("list")
@state_option
def list_images(state: Path | None) -> None:
    """List the base images of this machine: imported, or pulled before."""
    images = LocalImages(settings_for(state))
    rows = [
        (each.reference, each.source, f"{images.size_bytes(each) / 2**20:.0f}", moment(each.created_at))
        for each in images.list_images()
    ]
    show_table("", ("Image", "Source", "MiB", "Since"), rows)


@image.command("rm")
@click.argument("reference", metavar="REF")
@state_option
def remove_image(reference: str, state: Path | None) -> None:
    """Forget a base image; images built on it keep working."""
    removed = LocalImages(settings_for(state)).remove_image(reference)
    click.echo(f"{removed.reference} is gone from this machine's base images.")
