"""Debian bases, made from a Debian mirror where no registry answers.

Invariant: such a base looks to what builds on it like the official image of the same name: `python`, `pip` and what pip installs
live under /usr/local, and apt works.
"""

import asyncio
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight.core.errors import Busy
from pilotlight.images import programs
from pilotlight.images.layers import MAKING_PREFIX, definition_id, flush, owner_lives
from pilotlight.images.references import DebianBase
from pilotlight.images.surroundings import Surroundings

RECIPE = 2  # raise it when what is made changes
MAKE_TIMEOUT_S = 900
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
_PACKAGES = ("ca-certificates", "netbase", "tzdata")
# The headers are part of the official image, and C extensions are built against them.
_PYTHON_PACKAGES = ("python3", "python3-venv", "python3-dev")
_DPKG_OPTIONS = (
    "force-unsafe-io",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    # Debian's mark that pip must keep out: the image has no other owner than pip.
    "path-exclude=/usr/lib/python3*/EXTERNALLY-MANAGED",
)
_APT_CONF = """APT::Install-Suggests "false";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
"""
# Services must not be started by a package that is installed into an image.
_POLICY = "#!/bin/sh\nexit 101\n"
# Debian's pip belongs to apt and can't replace itself: the image gets one of its own, from the wheels that venv brings.
_PIP_SCRIPT = """set -e
minor=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
mkdir -p /usr/local/lib/python$minor/dist-packages
ln -sfn dist-packages /usr/local/lib/python$minor/site-packages
for name in python python3 python$minor; do ln -sfn /usr/bin/python$minor /usr/local/bin/$name; done
wheels=/usr/share/python-wheels
names=pip; case $minor in 3.10|3.11) names="pip setuptools";; esac
PYTHONPATH=$(echo $wheels/pip-*.whl) python3 -m pip install --quiet --no-cache-dir --no-index --find-links $wheels \
  --root-user-action ignore --ignore-installed $names
"""


@dataclass(frozen=True)
class MadeBase:
    """A Debian root directory and the exact versions in it; `python` is empty where there is none."""

    root: Path
    python: str
    debian: str


def base_id(base: DebianBase, apt_mirror: str) -> str:
    """The layer id of this base."""
    return definition_id("debian", base.suite.name, "python" if base.with_python else "plain", RECIPE, apt_mirror)


async def make_base(base: DebianBase, layer_id: str, cache: Path, surroundings: Surroundings) -> MadeBase:
    """Return the base from the machine's cache, made first if need be (some 20 s); errors: Busy where the mirror does not answer.

    Two processes that make the same at the same time both succeed: one's work is kept.
    """
    home = cache / "bases" / layer_id
    if (found := read_base(home)) is not None:
        return found
    making = home.with_name(f"{MAKING_PREFIX}{os.getpid()}-{layer_id[:16]}")
    await asyncio.to_thread(_remove_litter, home.parent)
    making.mkdir(parents=True)
    making.chmod(0o755)
    try:
        root = making / "root"
        await _bootstrap(base, root, surroundings)
        debian, python = await asyncio.to_thread(_dress, root, base.with_python)
        (making / "base.json").write_text(json.dumps({"python": python, "debian": debian}))
        await flush(making)
        try:
            making.rename(home)
        except OSError:
            if read_base(home) is None:
                raise
    finally:
        await asyncio.to_thread(shutil.rmtree, making, ignore_errors=True)
    made = read_base(home)
    assert made is not None
    return made


def _remove_litter(directory: Path) -> None:
    for path in directory.glob(f"{MAKING_PREFIX}*"):
        if not owner_lives(path.name):
            shutil.rmtree(path, ignore_errors=True)


def read_base(home: Path) -> MadeBase | None:
    """The base that was made here before, if any."""
    try:
        facts = json.loads((home / "base.json").read_text())
    except FileNotFoundError:
        return None
    return MadeBase(home / "root", facts["python"], facts["debian"])


def describe_base(root: Path, *, with_python: bool) -> MadeBase:
    """The base in this directory, told from what is in it."""
    debian = (root / "etc/debian_version").read_text().strip()
    return MadeBase(root, _python_version(root) if with_python else "", debian)


def base_env(made: MadeBase) -> list[str]:
    """What the official image puts into the environment."""
    env = [f"PATH={PATH}"]
    return [*env, "LANG=C.UTF-8", f"PYTHON_VERSION={made.python}"] if made.python else env


def _sources(base: DebianBase, surroundings: Surroundings) -> list[str]:
    """Lines of sources.list; none where the host names no mirror, and mmdebstrap knows a default."""
    apt, suite = surroundings.apt, base.suite.name
    if not apt.mirror:
        return []
    lines = [f"deb {apt.mirror} {suite} main"]
    if apt.has_updates:
        lines.append(f"deb {apt.mirror} {suite}-updates main")
    if apt.security_mirror:
        lines.append(f"deb {apt.security_mirror} {suite}-security main")
    return lines


async def _bootstrap(base: DebianBase, root: Path, surroundings: Surroundings) -> None:
    packages = (*_PACKAGES, *_PYTHON_PACKAGES) if base.with_python else ("netbase", "tzdata")
    arguments = ["--mode=root", "--variant=minbase", "--format=directory", f"--include={','.join(packages)}"]
    arguments += [f"--dpkgopt={option}" for option in _DPKG_OPTIONS]
    if surroundings.apt_conf:
        conf = surroundings.apt_conf.read_text()
        if surroundings.ca_bundle:
            conf = conf.replace(_guest_bundle_line(conf), f'Acquire::https::CAInfo "{surroundings.ca_bundle}";')
        # For this run only: what the image's own apt is told comes with each build step.
        arguments += [f"--aptopt={line}" for line in conf.splitlines()]
        arguments += ["--customize-hook=rm -f $1/etc/apt/apt.conf.d/99mmdebstrap"]
    if base.with_python:
        arguments.append(f"--customize-hook=chroot $1 sh -c '{_quote(_PIP_SCRIPT)}'")
    arguments += [base.suite.name, str(root), *_sources(base, surroundings)]
    await _run(["mmdebstrap", *arguments], base, surroundings)


def _guest_bundle_line(conf: str) -> str:
    return next((line for line in conf.splitlines() if line.startswith("Acquire::https::CAInfo ")), "\0")


def _quote(script: str) -> str:
    return script.replace("'", "'\\''")


async def _run(command: Sequence[str], base: DebianBase, surroundings: Surroundings) -> None:
    try:
        finished = await programs.run(command, env=surroundings.host_env(), timeout_s=MAKE_TIMEOUT_S)
    except FileNotFoundError as exc:
        raise Busy("Debian bases need mmdebstrap, which is not installed. Install it: apt-get install mmdebstrap.") from exc
    except TimeoutError as exc:
        raise Busy(f"Debian {base.suite.name} was not there after {MAKE_TIMEOUT_S} s. Is the mirror slow? Try again.") from exc
    if finished.code:
        lines = [line for line in finished.errors.splitlines() if line.startswith(("E:", "W:", "Err"))]
        raise Busy(
            f"Debian {base.suite.name} could not be made from the mirror {surroundings.apt.mirror or '(the default)'}: "
            f"{'; '.join(lines[-4:]) or finished.last_words()}. Check the mirror (PILOTLIGHT_DEBIAN_MIRROR) and the network, "
            "or import the image."
        )


def _dress(root: Path, with_python: bool) -> tuple[str, str]:
    """The last touches; returns Debian's and Python's exact versions."""
    (root / "etc/apt/apt.conf.d/01pilotlight").write_text(_APT_CONF)
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text(_POLICY)
    policy.chmod(0o755)
    for name in ("resolv.conf", "hostname"):  # the host's: each container gets its own
        (root / "etc" / name).unlink(missing_ok=True)
        (root / "etc" / name).touch(mode=0o644)
    for number in range(1, 10):  # some packages fail without these
        (root / f"usr/share/man/man{number}").mkdir(parents=True, exist_ok=True)
    made = describe_base(root, with_python=with_python)
    return made.debian, made.python


def _python_version(root: Path) -> str:
    status = (root / "var/lib/dpkg/status").read_text()
    package = next(block for block in status.split("\n\n") if block.startswith("Package: python3-minimal\n"))
    minor = ".".join(_field(package, "Version").split("-")[0].split(".")[:2])
    exact = next(block for block in status.split("\n\n") if block.startswith(f"Package: python{minor}-minimal\n"))
    return _field(exact, "Version").split("-")[0].split("~")[0]


def _field(block: str, name: str) -> str:
    return next(line.partition(": ")[2] for line in block.splitlines() if line.startswith(f"{name}: "))
