"""Real containers that are not what they should be: one property spoilt in each, and none runs an instruction of its program.

What is spoilt is the document for the OCI runtime, or the container between its creation and its start, as a fault of ours or of
the runtime would.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop
from test_runtime import DEADLINE_S, Output, opened, rootfs, run, shell, traces  # noqa: F401 (a fixture)

from pilotlight.config import Settings
from pilotlight.core import errors
from pilotlight.node import bundle, syscalls
from pilotlight.node.runtime import Bind
from pilotlight.node.setup import Setup, Started

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("crun"), reason="needs root and crun"),
]

NETWORK_SLOT = 59

Document = dict[str, Any]
Spoil = Callable[[Document], None]


def bind_of(source: str, target: str, *options: str) -> Document:
    return {"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", *options]}


def no_seccomp(document: Document) -> None:
    del document["linux"]["seccomp"]


def another_filter(document: Document) -> None:
    document["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [], "syscalls": []}


def without_namespace(kind: str, *mounts: str) -> Spoil:
    """Those mounts that nobody may make in such a container are left out too, or the runtime would refuse it by itself."""

    def spoil(document: Document) -> None:
        document["linux"]["namespaces"] = [entry for entry in document["linux"]["namespaces"] if entry["type"] != kind]
        document["mounts"] = [mount for mount in document["mounts"] if mount["destination"] not in mounts]
        if "/proc" in mounts:
            nothing_masked(document)
            nothing_read_only(document)
        if kind == "network":
            document["linux"]["sysctl"] = {}

    return spoil


def no_user_namespace(document: Document) -> None:
    without_namespace("user")(document)
    del document["linux"]["uidMappings"], document["linux"]["gidMappings"]


def wider_map(document: Document) -> None:
    for kind in ("uidMappings", "gidMappings"):
        document["linux"][kind] = [*document["linux"][kind], {"containerID": 65_536, "hostID": 0, "size": 1}]


def more_capabilities(document: Document) -> None:
    for kind in ("bounding", "effective", "permitted"):
        document["process"]["capabilities"][kind] = [*document["process"]["capabilities"][kind], "CAP_SYS_ADMIN"]


def inherited_capabilities(document: Document) -> None:
    for kind in ("inheritable", "ambient"):
        document["process"]["capabilities"][kind] = ["CAP_CHOWN"]


def new_privileges(document: Document) -> None:
    document["process"]["noNewPrivileges"] = False


def nothing_masked(document: Document) -> None:
    document["linux"]["maskedPaths"] = []


def nothing_read_only(document: Document) -> None:
    document["linux"]["readonlyPaths"] = []


def more_mounts(*mounts: Document) -> Spoil:
    def spoil(document: Document) -> None:
        document["mounts"] = [*document["mounts"], *mounts]

    return spoil


def writable_sys(document: Document) -> None:
    document["mounts"] = [
        {**mount, "options": [option for option in mount["options"] if option != "ro"]} if mount["destination"] == "/sys" else mount
        for mount in document["mounts"]
    ]


def another_source(document: Document) -> None:
    document["mounts"] = [
        {**mount, "source": "/etc"} if mount["destination"] == "/proof" else mount for mount in document["mounts"]
    ]


def another_program(document: Document) -> None:
    document["process"]["args"] = ["/bin/sh", "-c", "echo ran; echo ran >/proof/ran"]


def another_user(document: Document) -> None:
    document["process"]["user"]["uid"] = 7


def more_groups(document: Document) -> None:
    document["process"]["user"]["additionalGids"] = [4]


DOCUMENTS: dict[str, tuple[Spoil, str]] = {
    "no system call filter": (no_seccomp, "not filtered"),
    "a filter that allows all": (another_filter, "filter of its system calls is another"),
    "no user namespace": (no_user_namespace, "host's user namespace"),
    "the host's network": (without_namespace("network", "/sys"), "host's net namespace"),
    "the host's processes": (without_namespace("pid", "/proc"), "host's pid namespace"),
    "the host's message queues": (without_namespace("ipc", "/dev/mqueue"), "host's ipc namespace"),
    "the host's cgroup namespace": (without_namespace("cgroup"), "host's cgroup namespace"),
    "an id of the host": (wider_map, "map of user ids"),
    "CAP_SYS_ADMIN": (more_capabilities, "CapBnd has CAP_SYS_ADMIN"),
    "capabilities that are inherited": (inherited_capabilities, "CapAmb has CAP_CHOWN"),
    "new privileges": (new_privileges, "no_new_privs"),
    "an open /proc": (nothing_masked, "nothing is mounted at /proc/keys"),
    "a writable /proc/sys": (nothing_read_only, "nothing is mounted at /proc/sys"),
    "a writable /sys": (writable_sys, "/sys is wrong: it is not ro"),
    "the host's root": (more_mounts(bind_of("/", "/host")), "mounted at /host that nobody asked for"),
    "the host's /etc over its own": (more_mounts(bind_of("/etc", "/etc", "ro")), "mounted at /etc that nobody asked for"),
    "another tree than the volume": (another_source, "mount at /proof is wrong"),
    "a second /proc": (more_mounts({**bundle.MOUNTS[0], "destination": "/proc2"}), "mounted at /proc2 that nobody asked for"),
    "another program": (another_program, "not our init"),
    "another user": (another_user, "its Uid is"),
    "more groups": (more_groups, "groups that it should not be in"),
}


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    chosen = Settings(state=tmp_path / "state", network_slot=NETWORK_SLOT)
    yield chosen
    shutil.rmtree(chosen.run_dir, ignore_errors=True)
    assert not any(traces(chosen).values()), traces(chosen)


def attempt(settings: Settings, rootfs: Path, tmp_path: Path, match: str) -> None:  # noqa: F811
    """Start a container that leaves proof wherever it can; it must be refused for that fault, without proof."""
    proof = tmp_path / "proof"
    proof.mkdir(mode=0o777)
    proof.chmod(0o777)
    script = "echo ran; echo ran >/proof/ran"

    async def check() -> None:
        async with opened(settings) as runtime:
            output, told = Output(), list[tuple[str, Sequence[str]]]()
            runtime.on_refused(lambda *refusal: told.append(refusal))
            with pytest.raises(errors.NotIsolated, match=match):
                container = await runtime.start(
                    shell(rootfs, script, env={"SECRET": "s"}, binds=(Bind(proof, "/proof", read_only=False, needs_ids=True),)),
                    output,
                )
                await container.wait()
            assert [container_id for container_id, _ in told] == ["ta-test"] and re.search(match, "; ".join(told[0][1]))
            assert not output.data[1] and not list(proof.iterdir())
            ended, _ = await run(runtime, shell(rootfs, "exit 3", "ta-next"))  # nothing of it is in the way of others
            assert ended.code in (3, 0)

    uvloop.run(check())


@pytest.mark.parametrize("what", DOCUMENTS)
def test_a_container_that_is_spoilt_runs_nothing(
    settings: Settings,
    rootfs: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    spoil, match = DOCUMENTS[what]
    honest = bundle.config

    def spoilt(wanted: bundle.Bundle) -> Document:
        document = honest(wanted)
        if wanted.hostname == "ta-test":
            spoil(document)
        return document

    monkeypatch.setattr(bundle, "config", spoilt)
    if what in ("the host's network", "no user namespace"):  # which must not be configured as if they were a container's
        monkeypatch.setattr(Setup, "_connect", lambda *_: None)
    attempt(settings, rootfs, tmp_path, match)


def test_binds_lie_where_links_of_the_image_lead(settings: Settings, rootfs: Path, tmp_path: Path) -> None:  # noqa: F811
    """What was asked for by one name and mounted at another is not taken for a stranger; nor are odd names."""
    (tmp_path / "in it").write_text("given")
    binds = (
        Bind(tmp_path / "in it", "/var/run/a b\\c/file"),  # /var/run leads to /run
        Bind(tmp_path, "/var/run/../lock/d", read_only=False),
    )

    async def check() -> None:
        async with opened(settings) as runtime:
            ended, output = await run(runtime, shell(rootfs, "cat '/run/a b\\c/file' '/run/lock/d/in it'", binds=binds))
            assert (ended.code, output.text) == (0, "givengiven"), output.data

    uvloop.run(check())


def leave_group(started: Started) -> None:
    for entrance in started.group.entrances:
        (entrance.parent.parent / "cgroup.procs").write_text(str(started.pid))


strangers: list["subprocess.Popen[bytes]"] = []


def join_stranger(started: Started) -> None:
    stranger = subprocess.Popen(["/bin/sleep", "60"])
    for entrance in started.group.entrances:
        entrance.write_text(str(stranger.pid))
    strangers.append(stranger)  # it is killed with the container


def mount_inside(started: Started) -> None:
    failures: list[OSError] = []

    def enter_and_mount() -> None:
        namespace = os.open(f"/proc/{started.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.unshare(syscalls.CLONE_FS)
            syscalls.setns(namespace, syscalls.CLONE_NEWNS)
            syscalls.mount("none", "/mnt", "tmpfs")
        except OSError as error:
            failures.append(error)
        finally:
            os.close(namespace)

    thread = threading.Thread(target=enter_and_mount)
    thread.start()
    thread.join()
    assert not failures, failures


BETWEEN: dict[str, tuple[Callable[[Started], None], str]] = {
    "outside of its control groups": (leave_group, "control group for .* which is not its own"),
    "a stranger in its control groups": (join_stranger, "processes that are not its own"),
    "a mount from outside": (mount_inside, "mounted at /mnt that nobody asked for"),
}


@pytest.mark.parametrize("what", BETWEEN)
def test_a_container_that_is_changed_before_its_start_runs_nothing(
    settings: Settings,
    rootfs: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    change, match = BETWEEN[what]
    honest = Setup._connect  # pyright: ignore[reportPrivateUsage]

    def connect(self: Setup, started: Started) -> None:
        honest(self, started)
        if started.container_id == "ta-test":
            change(started)

    monkeypatch.setattr(Setup, "_connect", connect)
    attempt(settings, rootfs, tmp_path, match)
    while strangers:
        assert strangers.pop().wait(DEADLINE_S) == -signal.SIGKILL


def test_two_containers_in_one_namespace_are_refused(
    settings: Settings,
    rootfs: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest, first = bundle.config, [0]

    def joined(wanted: bundle.Bundle) -> Document:
        document = honest(wanted)
        if wanted.hostname == "ta-second":
            del document["hostname"]  # it is not theirs to set
            for entry in document["linux"]["namespaces"]:
                if entry["type"] == "uts":
                    entry["path"] = f"/proc/{first[0]}/ns/uts"
        return document

    monkeypatch.setattr(bundle, "config", joined)

    async def check() -> None:
        async with opened(settings) as runtime:
            container = await runtime.start(shell(rootfs, "sleep 60", "ta-first"), Output())
            first[0] = container.pid
            with pytest.raises(errors.NotIsolated, match="shares its uts namespace with ta-first"):
                await runtime.start(shell(rootfs, "true", "ta-second"), Output())
            await container.kill()

    uvloop.run(check())


HOLD_AND_DIE = """
import os, signal, subprocess
from pilotlight.node.tracing import Held
child = subprocess.Popen(["/bin/sh", "-c", "read _; exec /bin/sh -c 'echo ran >$PROOF; sleep 60'"], stdin=subprocess.PIPE)
held = Held(child.pid, follow_exec=True).__enter__()
child.stdin.write(b"\\n"); child.stdin.close()
assert held.until_exec()
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_agent_that_dies_in_the_middle_leaves_no_unchecked_container(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    environment = {**os.environ, "PROOF": str(proof)}
    done = subprocess.run([sys.executable, "-c", HOLD_AND_DIE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with contextlib.suppress(ProcessLookupError):  # it has ended, and somebody has buried it
        held = os.pidfd_open(int(done.stdout))
        ended, _, _ = select.select([held], [], [], DEADLINE_S)
        os.close(held)
        assert ended
    assert not proof.exists()
