"""Files of the host, of the platform and of other containers, by every path that a container can name."""

import os
import socket
import stat
from functools import partial
from pathlib import Path

from . import Attempts, probe

GUEST_VOLUMES = "/__modal/volumes"
UP = "../" * 24


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(descriptor, 64) or b"it could be opened"
    finally:
        os.close(descriptor)


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


@probe()
def files_of_the_host(attempts: Attempts) -> None:
    """By their paths, by dots, by links, and by descriptors of directories."""
    for canary in attempts.around.files:
        attempts.finds(canary, partial(_read, canary))
        attempts.finds(f"dots to {canary}", partial(_read, f"/tmp/{UP}{canary.lstrip('/')}"))
        attempts.finds(f"links to {canary}", partial(_by_link, canary))
        descriptor = os.open("/tmp", os.O_RDONLY)
        attempts.finds(f"{canary} from a descriptor", partial(_from, descriptor, UP + canary.lstrip("/")))
        os.close(descriptor)


def _by_link(canary: str) -> bytes:
    link = Path("/tmp/escape-link")
    link.unlink(missing_ok=True)
    link.symlink_to(UP + canary.lstrip("/"))
    try:
        return _read(str(link))
    finally:
        link.unlink()


def _from(directory: int, path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(descriptor, 64)
    finally:
        os.close(descriptor)


@probe(on_host=False)
def out_of_a_root_within(attempts: Attempts) -> None:
    """The old way out of a chroot: a second one below, while a descriptor and the working directory stay above."""
    before = _identity("/")
    inner = Path("/tmp/escape-root")
    inner.mkdir(exist_ok=True)
    above = os.open("/", os.O_RDONLY)
    os.chroot(inner)
    os.fchdir(above)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    (attempts.refused if _identity("/") == before else attempts.reached)("the root after it")
    for canary in attempts.around.files:
        attempts.finds(canary, partial(_read, canary))


@probe(on_host=False)
def links_in_volumes(attempts: Attempts) -> None:
    """A link in a volume that names a path of the host is a name of the container's own root, here."""
    volume = attempts.around.volume
    for canary in attempts.around.files:
        for number, target in enumerate((canary, UP + canary.lstrip("/"), f"/proc/1/root{canary}", f"/proc/self/root{canary}")):
            link = f"{volume}/escape-link-{number}"
            if not os.path.lexists(link):
                os.symlink(target, link)
            attempts.finds(f"{link} to {target}", partial(_read, link))
            os.unlink(link)


@probe(on_host=False)
def parents_of_mounts(attempts: Attempts) -> None:
    """From the top of whatever is mounted, `..` is the directory in the container, not that beside it outside."""
    root = _identity("/")
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in points:
        try:
            descriptor = os.open(point, os.O_RDONLY)
        except OSError as error:
            attempts.refused(f"{point}: {error}")
            continue
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            top = os.open(UP, os.O_RDONLY, dir_fd=descriptor)
            found = os.fstat(top)
            (attempts.refused if (found.st_dev, found.st_ino) == root else attempts.reached)(f"above {point}")
            os.close(top)
            for canary in attempts.around.files:
                attempts.finds(f"{canary} from {point}", partial(_from, descriptor, UP + canary.lstrip("/")))
        os.close(descriptor)


@probe(on_host=False)
def volumes_of_others(attempts: Attempts) -> None:
    for volume in attempts.around.other_volumes:
        for path in (f"{GUEST_VOLUMES}/{volume}", f"{GUEST_VOLUMES}/../volumes/{volume}", f"{attempts.around.volume}/../{volume}"):
            attempts.finds(path, partial(os.listdir, path))
    own = os.listdir(GUEST_VOLUMES) if Path(GUEST_VOLUMES).is_dir() else []
    (attempts.reached if len(own) > 1 else attempts.refused)(f"volumes that are here: {own}")


@probe(on_host=False)
def sockets_of_the_platform(attempts: Attempts) -> None:
    """Only the container's own gateway is here; the server, the edge, the agent and other containers' gateways are not."""
    guest = Path("/__pilotlight")
    sockets = [entry.name for entry in guest.iterdir() if stat.S_ISSOCK(entry.stat().st_mode)]
    (attempts.refused if sockets == ["gateway.sock"] else attempts.reached)(f"sockets: {sockets}")
    for canary in attempts.around.files:
        if canary.endswith(".sock"):
            attempts.denied(f"connect to {canary}", partial(_connect, canary))
    gateway = os.open(guest / "gateway.sock", os.O_PATH)
    attempts.denied("a neighbour of the socket, by its descriptor", partial(os.open, "../server.sock", os.O_PATH, dir_fd=gateway))
    attempts.denied("open it as a file", partial(os.open, f"/proc/self/fd/{gateway}", os.O_RDWR))
    attempts.denied("change its mode", partial(os.chmod, guest / "gateway.sock", 0o600))
    attempts.denied("remove it", partial(os.unlink, guest / "gateway.sock"))


def _connect(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(2)
        door.connect(path)
    return path


@probe(on_host=False)
def what_is_read_only(attempts: Attempts) -> None:
    """Files of the platform that all containers share."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point, options = line.split()[4:6]
        if "ro" not in options.split(",") or not Path(point).is_file():
            continue
        attempts.denied(f"write {point}", partial(os.open, point, os.O_WRONLY))
        descriptor = os.open(point, os.O_RDONLY)
        attempts.denied(f"write {point} by its descriptor", partial(os.open, f"/proc/self/fd/{descriptor}", os.O_RDWR))
        attempts.denied(f"change the mode of {point}", partial(os.chmod, point, 0o777))
        attempts.denied(f"change the owner of {point}", partial(os.chown, point, 0, 0))
        attempts.denied(f"change the time of {point}", partial(os.utime, point, (1, 1)))
        os.close(descriptor)


@probe(on_host=False)
def hard_links(attempts: Attempts) -> None:
    """A second name for a file of others, in a place where one may write."""
    places = ["/tmp", *([attempts.around.volume] if attempts.around.volume else [])]
    for place in places:
        for target in (
            "/etc/resolv.conf",
            "/__pilotlight/init",
            "/__pilotlight/gateway.sock",
            "/proc/1/exe",
            *attempts.around.files,
        ):
            attempts.denied(f"{target} in {place}", partial(os.link, target, f"{place}/escape-hard-link"))
    if attempts.around.volume:
        attempts.denied(
            "a layer's file in the volume", partial(os.link, "/usr/bin/env", f"{attempts.around.volume}/escape-hard-link")
        )


@probe(on_host=False)
def marks_of_overlays(attempts: Attempts) -> None:
    """The kernel's own marks on files of an overlay could make one name mean a file below another."""
    path = Path("/tmp/escape-marked")
    path.mkdir(exist_ok=True)
    for name in ("trusted.overlay.redirect", "trusted.overlay.opaque", "trusted.overlay.metacopy", "trusted.overlay.origin"):
        attempts.denied(name, partial(os.setxattr, path, name, f"/{UP}etc".encode()))
    attempts.finds("what the mark says", partial(_redirected, path))
    path.rmdir()


def _redirected(path: Path) -> list[str]:
    """The unprivileged mark may be set, and must mean nothing to this overlay."""
    os.setxattr(path, "user.overlay.redirect", b"/etc")
    return os.listdir(path)


@probe(on_host=False)
def files_of_the_neighbour(attempts: Attempts) -> None:
    """What another container of the same app has written, in the places that both have."""
    for place in ("/tmp", "/var/tmp", "/root", "/dev/shm", "/run"):
        names = [name for name in os.listdir(place) if "canary" in name] if Path(place).is_dir() else []
        (attempts.reached if names else attempts.refused)(f"{place}: {names}")
