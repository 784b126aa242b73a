"""Real containers: what they see, what they can't reach, how they end, and that nothing of them is left."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop
from conftest import cgroups

from pilotlight.config import Settings
from pilotlight.core import errors
from pilotlight.core.gpus import Device
from pilotlight.node import disk
from pilotlight.node.cdi import Specs
from pilotlight.node.gpus import GpuRuntime, Gpus
from pilotlight.node.nvml import Found
from pilotlight.node.rootfs import IdMap
from pilotlight.node.runtime import Bind, Container, ContainerSpec, Exit, Runtime, sweep
from tests.chaos.disk import Disk

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("crun"), reason="needs root and crun"),
]

NETWORK_SLOT = 57
DEADLINE_S = 120


@pytest.fixture(scope="session")
def rootfs() -> Path:
    """A small Debian with Python, kept between runs; PILOTLIGHT_TEST_ROOTFS names one that is there already."""
    if given := os.environ.get("PILOTLIGHT_TEST_ROOTFS"):
        return Path(given)
    made = Path(tempfile.gettempdir()) / "pilotlight-test-rootfs"
    if not made.exists():
        if not shutil.which("mmdebstrap"):
            pytest.skip("needs mmdebstrap")
        sources = sorted([*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("debian.sources")])
        release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
        draft = Path(tempfile.mkdtemp(dir=made.parent))
        command = ["mmdebstrap", "--variant=minbase", "--include=python3-minimal", release["VERSION_CODENAME"], str(draft)]
        subprocess.run([*command, *map(str, sources)], check=True, capture_output=True)
        draft.chmod(0o755)
        draft.rename(made)
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    chosen = Settings(state=tmp_path / "state", network_slot=NETWORK_SLOT)
    before = traces(chosen)
    assert not any(before.values()), before
    yield chosen
    shutil.rmtree(chosen.run_dir, ignore_errors=True)
    assert not any(traces(chosen).values()), traces(chosen)


def traces(settings: Settings) -> dict[str, list[str]]:
    """All that a platform could leave on a machine."""
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {
        "mounts": [line for line in Path("/proc/self/mounts").read_text().splitlines() if settings.instance in line],
        "interfaces": [name for _, name in socket.if_nameindex() if settings.instance in name],
        "cgroups": [str(path) for path in cgroups(f"pilotlight-{settings.instance}")],
        "tables": [line for line in tables if settings.instance in line],
        "processes": [
            entry.name
            for entry in Path("/proc").iterdir()
            if entry.name.isdecimal() and settings.instance.encode() in read_or_nothing(entry / "cmdline")
        ],
        "scratch": [str(path) for path in (settings.node_dir / "scratch").glob("*")],
    }


def read_or_nothing(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


@dataclass
class Output:
    """Gathers what a container prints; `until` waits for a text in it."""

    data: dict[int, bytes] = field(default_factory=lambda: {1: b"", 2: b""})
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, fd: int, data: bytes, at_ns: int) -> None:
        assert at_ns > 0
        self.data[fd] += data
        self.changed.set()

    @property
    def text(self) -> str:
        return self.data[1].decode()

    async def until(self, text: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while text not in self.text:
                await self.changed.wait()
                self.changed.clear()


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Runtime]:
    runtime = Runtime(settings)
    await runtime.open()
    try:
        yield runtime
    finally:
        await runtime.close()


async def run(runtime: Runtime, spec: ContainerSpec) -> tuple[Exit, Output]:
    output = Output()
    async with asyncio.timeout(DEADLINE_S):
        container = await runtime.start(spec, output)
        return await container.wait(), output


def shell(rootfs: Path, script: str, container_id: str = "ta-test", **fields: object) -> ContainerSpec:
    return ContainerSpec(container_id, (rootfs,), ("/bin/sh", "-c", script), **fields)  # type: ignore[arg-type]


def python(rootfs: Path, script: str, container_id: str = "ta-test", **fields: object) -> ContainerSpec:
    return ContainerSpec(container_id, (rootfs,), ("python3", "-c", script), **fields)  # type: ignore[arg-type]


def test_a_container_is_confined_and_its_output_complete(settings: Settings, rootfs: Path) -> None:
    script = """
        hostname; id -u; pwd; echo $GREETING; cat /proc/self/uid_map
        grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status
        ls /proc/self/fd; echo wrong >/dev/stderr; mount -t tmpfs none /mnt 2>/dev/null || echo refused; printf unfinished; exit 3
    """

    async def check() -> None:
        async with opened(settings) as runtime:
            ended, output = await run(runtime, shell(rootfs, script, env={"GREETING": "hello"}, cwd="/tmp"))
            assert ended.code == 3
            assert not ended.oom_killed
            words = output.text.split()
            assert words[:7] == ["ta-test", "0", "/tmp", "hello", "0", str(IdMap().first), str(IdMap().count)]
            assert words[7:13] == ["CapEff:", "00000000a80405fb", "NoNewPrivs:", "1", "Seccomp:", "2"]
            assert words[13:] == ["0", "1", "2", "3", "refused", "unfinished"]  # 3 is the directory being listed
            assert output.data[2] == b"wrong\n"

    uvloop.run(check())


NEIGHBOUR = """
import socket
server = socket.create_server(("0.0.0.0", 8000))
print(socket.gethostbyname(socket.gethostname()), "up", flush=True)
while True: server.accept()
"""

REACH = """
import socket
for target in {targets}:
    with socket.socket() as probe:
        probe.settimeout(5)
        try: probe.connect(target); print("reached", *target)
        except OSError as error: print("refused", *target)
for name in ("web.localhost", "localhost", socket.gethostname()): print(name, socket.gethostbyname(name))
print(*sorted(name for _, name in socket.if_nameindex()))
"""


def test_the_network_reaches_the_platform_and_nothing_else_of_this_machine(settings: Settings, rootfs: Path) -> None:
    async def check() -> None:
        async with opened(settings) as runtime:
            with (
                socket.create_server(("0.0.0.0", 0)) as stranger,
                socket.create_server((settings.link_local_address, settings.web_port)),
            ):
                other = Output()
                neighbour = await runtime.start(python(rootfs, NEIGHBOUR, "ta-neighbour"), other)
                await other.until("up")
                address = other.text.split()[0]
                socket.create_connection((address, 8000), DEADLINE_S).close()  # the host may connect to a container
                port = stranger.getsockname()[1]
                gateway = settings.container_subnet.replace("0.0/16", "0.1")
                closed = [(gateway, port), (settings.link_local_address, port), ("169.254.169.254", 80), (address, 8000)]
                targets = [(settings.link_local_address, settings.web_port), *closed]
                ended, output = await run(runtime, python(rootfs, REACH.format(targets=targets)))
                lines = output.text.splitlines()
                assert ended.code == 0
                assert lines[0] == f"reached {settings.link_local_address} {settings.web_port}"
                assert lines[1:5] == [f"refused {where} {number}" for where, number in closed]
                assert lines[5] == f"web.localhost {settings.link_local_address}"
                assert lines[6] == "localhost 127.0.0.1"
                assert lines[8] == "eth0 lo"
                await neighbour.kill()
            ended, output = await run(runtime, python(rootfs, "import socket; print(socket.if_nameindex())", block_network=True))
            assert output.text == "[(1, 'lo')]\n"

    uvloop.run(check())


def test_the_gateway_keeps_its_hardware_address_as_containers_come_and_go(settings: Settings, rootfs: Path) -> None:
    async def check() -> None:
        async with opened(settings) as runtime:
            address = Path("/sys/class/net", settings.bridge_name, "address")
            before = await asyncio.to_thread(address.read_text)
            container = await runtime.start(shell(rootfs, "sleep 100"), Output())
            during = await asyncio.to_thread(address.read_text)
            container.signal(signal.SIGKILL)
            await container.wait()
            assert {during, await asyncio.to_thread(address.read_text)} == {before}

    uvloop.run(check())


def test_limits_are_kept_and_their_breach_is_told(settings: Settings, rootfs: Path) -> None:
    async def check() -> None:
        async with opened(settings) as runtime:
            ended, _ = await run(runtime, python(rootfs, "bytearray(300 << 20)", memory_limit_mib=100))
            assert (ended.code, ended.oom_killed) == (137, True)
            assert 90 << 20 <= ended.peak_memory_bytes <= 100 << 20
            ended, output = await run(runtime, python(rootfs, "import os\nwhile 1: os.fork()", pids_limit=20))
            assert ended.code == 1
            assert b"BlockingIOError" in output.data[2]
            burn = "import time\nbegun = time.monotonic()\nwhile time.process_time() < 0.2: pass\nprint(time.monotonic() - begun)"
            ended, output = await run(runtime, python(rootfs, burn, milli_cpu_limit=250))
            assert float(output.text) > 0.5
            assert ended.cpu_seconds >= 0.2

    uvloop.run(check())


def protected(container_id: str) -> int:
    """Bytes that a container keeps while others have more than their share."""
    limits = [group / name for group in cgroups(container_id) for name in ("memory.soft_limit_in_bytes", "memory.low")]
    return next(int(limit.read_text()) for limit in limits if limit.exists())


def test_containers_without_a_limit_can_not_take_more_than_the_node_offers(settings: Settings, rootfs: Path) -> None:
    async def check() -> None:
        async with opened(settings.model_copy(update={"memory_mib": 150})) as runtime:
            output = Output()
            small = python(rootfs, "import time; print('up', flush=True); time.sleep(60)", "ta-small", memory_request_mib=64)
            neighbour = await runtime.start(small, output)
            await output.until("up")
            assert protected("ta-small") == 64 << 20
            ended, _ = await run(runtime, python(rootfs, "bytearray(400 << 20)", "ta-greedy"))
            assert (ended.code, ended.oom_killed) == (137, True)
            assert ended.peak_memory_bytes <= 160 << 20
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await neighbour.wait()  # it had done nothing, and lives
            await neighbour.kill()

    uvloop.run(check())


@pytest.mark.parametrize("method", [disk.LOOP, disk.TMPFS])
def test_a_limited_disk_is_full_when_it_is_and_nothing_of_it_is_left(
    settings: Settings, rootfs: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    if method == disk.LOOP and disk.method() != disk.LOOP:
        pytest.skip("this machine has no loop devices")
    monkeypatch.setattr(disk, "method", lambda: method)

    def loops() -> set[str]:
        backing = Path("/sys/block").glob("loop*/loop/backing_file")
        return {text for path in backing if settings.instance in (text := path.read_text()) or str(settings.state) in text}

    async def check() -> None:
        script = "head -c 20M /dev/zero > /a && echo fits; head -c 20M /dev/zero > /b; wc -c < /b; rm /a; echo again > /c && cat /c"
        async with opened(settings) as runtime:
            neighbour = await runtime.start(shell(rootfs, "read line", "ta-other"), Output())
            ended, output = await run(runtime, shell(rootfs, script, disk_limit_mib=32))
            first, size, last = output.text.split()
            assert (ended.code, first, last) == (0, "fits", "again"), output.data
            assert 4 << 20 < int(size) < 13 << 20 and b"No space left on device" in output.data[2]
            ended, output = await run(runtime, shell(rootfs, "head -c 50M /dev/zero > /a && echo fits"))
            assert output.text == "fits\n"  # whose function asks for no limit has none
            await neighbour.kill()
        assert not loops()

    uvloop.run(check())


def test_nothing_starts_on_a_full_disk_and_that_is_said(settings: Settings, rootfs: Path, tmp_path: Path) -> None:
    """Overlayfs would be there, read-only, for want of its working directory."""
    own = Disk(tmp_path / "disk.img", settings.state)
    own.make(64)
    own.mount()

    async def check() -> None:
        async with opened(settings) as runtime:
            assert (await run(runtime, shell(rootfs, "touch /file")))[0].code == 0
            async with asyncio.timeout(30):
                while any((settings.node_dir / "scratch").iterdir()):  # noqa: ASYNC110 (cleared away a moment later)
                    await asyncio.sleep(0.01)
            own.fill()
            with pytest.raises(errors.DiskFull):
                await run(runtime, shell(rootfs, "touch /file"))
            own.make_room()
            assert (await run(runtime, shell(rootfs, "touch /file")))[0].code == 0

    try:
        uvloop.run(check())
    finally:
        own.unmount()


def test_signals_reach_the_program_and_kill_reaches_all(settings: Settings, rootfs: Path) -> None:
    async def check() -> None:
        async with opened(settings) as runtime:
            output = Output()
            script = "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
            container = await runtime.start(shell(rootfs, script), output)
            await output.until("ready")
            container.signal(signal.SIGTERM)
            assert (await container.wait()).code == 7
            assert "got it" in output.text
            output = Output()
            container = await runtime.start(shell(rootfs, "setsid sleep 999 & trap '' TERM; echo ready; sleep 999"), output)
            await output.until("ready")
            await container.kill()
            assert (await container.wait()).code == 137
            container.signal(signal.SIGTERM)  # too late, and no error

    uvloop.run(check())


def test_upper_directory_holds_exactly_what_was_written_with_unshifted_ids(
    settings: Settings, rootfs: Path, tmp_path: Path
) -> None:
    layer, secret, shared = tmp_path / "build" / "layer", tmp_path / "secret", tmp_path / "shared"
    secret.write_text("arguments")
    secret.chmod(0o600)
    shared.mkdir()
    binds = (Bind(secret, "/__pilotlight/arguments"), Bind(shared, "/shared", read_only=False))
    script = "cat /__pilotlight/arguments; touch /shared/mine; touch /made; chown 33:33 /made; rm /etc/debian_version"
    script += "; : >/__pilotlight/arguments"

    async def check() -> None:
        async with opened(settings) as runtime:
            _, output = await run(runtime, shell(rootfs, script, binds=binds, upper=layer))
            assert output.text == "arguments"
            assert b"Read-only" in output.data[2]
            assert sorted(str(path.relative_to(layer)) for path in layer.rglob("*")) == ["etc", "etc/debian_version", "made"]
            assert (layer / "made").stat().st_uid == 33
            assert (shared / "mine").stat().st_uid == 0
            assert [path.name for path in layer.parent.iterdir()] == ["layer"]
            above = ContainerSpec("ta-above", (rootfs, layer), ("stat", "-c", "%u", "/made", "/etc/debian_version"))
            ended, output = await run(runtime, above)
            assert (ended.code, output.text) == (1, "33\n")

    uvloop.run(check())


def test_what_cannot_start_says_why_and_leaves_nothing(settings: Settings, rootfs: Path) -> None:
    async def check() -> None:
        async with opened(settings) as runtime:
            with pytest.raises(errors.InvalidInput, match="no program 'pythn'"):
                await run(runtime, ContainerSpec("ta-test", (rootfs,), ("pythn",)))
            with pytest.raises(errors.InvalidInput, match="no such user"):
                await run(runtime, shell(rootfs, "true", user="nobody-knows"))
            with pytest.raises(errors.PilotlightError, match=r"/nonexistent could not be mounted"):
                await run(runtime, shell(Path("/nonexistent"), "true"))
            assert not [name for _, name in socket.if_nameindex() if name.startswith(f"pv{settings.instance}")]
            ended, output = await run(runtime, shell(rootfs, "id -u; id -g", user="www-data"))  # the id is free again
            assert (ended.code, output.text) == (0, "33\n33\n")

    uvloop.run(check())


def test_many_at_once_a_cancelled_start_and_a_close_that_ends_what_runs(settings: Settings, rootfs: Path) -> None:
    async def check() -> None:
        async with opened(settings) as runtime:
            ended = await asyncio.gather(*(run(runtime, shell(rootfs, f"exit {i}", f"ta-{i}")) for i in range(12)))
            assert [one.code for one, _ in ended] == list(range(12))
            starting = asyncio.create_task(runtime.start(shell(rootfs, "sleep 999", "ta-cancelled"), Output()))
            await asyncio.sleep(0)  # let it begin
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            left = await runtime.start(shell(rootfs, "sleep 999", "ta-left"), Output())
        assert (await left.wait()).code == 137

    uvloop.run(check())


ORPHANS = """
import asyncio, signal, sys
from pathlib import Path
from pilotlight.config import Settings
from pilotlight.node.runtime import ContainerSpec, Runtime
async def main():
    runtime = Runtime(Settings.model_validate_json(sys.argv[1]))
    await runtime.open()
    container = await runtime.start(ContainerSpec("ta-orphan", (Path(sys.argv[2]),), ("sleep", "999")), print)
    print(container.pid, flush=True)
    signal.pause()
asyncio.run(main())
"""


def test_what_a_dead_agent_left_is_swept(settings: Settings, rootfs: Path) -> None:
    command = [sys.executable, "-c", ORPHANS, settings.model_dump_json(), str(rootfs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()
        agent.kill()
    assert traces(settings)["cgroups"]
    sweep(settings)
    sweep(settings)


def test_a_dead_agent_leaves_only_what_the_next_one_sweeps(settings: Settings, rootfs: Path) -> None:
    command = [sys.executable, "-c", ORPHANS, settings.model_dump_json(), str(rootfs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        agent.kill()
    assert Path(f"/proc/{pid}").exists()

    async def check() -> None:
        async with opened(settings) as runtime:
            assert not read_or_nothing(Path(f"/proc/{pid}/cmdline"))  # gone, or a zombie of somebody's
            container: Container = await runtime.start(shell(rootfs, "true", "ta-orphan"), Output())
            assert (await container.wait()).code == 0

    uvloop.run(check())


CDI = """
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: GPU-1
  containerEdits:
    deviceNodes: [{{path: /dev/nvidia0, hostPath: {directory}/zero}}]
- name: "1"
  containerEdits:
    deviceNodes: [{{path: /dev/nvidia1, hostPath: {directory}/full}}]
containerEdits:
  env: [NVIDIA_VISIBLE_DEVICES=void, FROM_SPECIFICATION=yes]
  deviceNodes: [{{path: /dev/nvidiactl, hostPath: /dev/null}}]
  mounts:
  - {{hostPath: {directory}/library, containerPath: /usr/lib/libdriver.so.550, options: [ro, nosuid, nodev, bind]}}
  hooks:
  - {{hookName: createContainer, path: {directory}/hook, args: [hook, libdriver.so.550, /usr/lib/libdriver.so]}}
"""

LINK = """#!/usr/bin/python3
# As a vendor's hook does it: in the container's namespaces, before its root is the root, told where that is by the state.
import json, os, sys
bundle = json.load(sys.stdin)["bundle"]
with open(f"{bundle}/config.json") as file:
    root = json.load(file)["root"]["path"]
os.symlink(sys.argv[1], root + sys.argv[2])
"""


@pytest.fixture
def cdi() -> Iterator[Path]:
    """A specification of two "GPUs", which are harmless devices of the kernel."""
    directory = Path(tempfile.mkdtemp(dir="/var/tmp"))
    directory.chmod(0o755)
    for name, minor in (("zero", 5), ("full", 7)):
        os.mknod(directory / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        (directory / name).chmod(0o666)
    (directory / "library").write_text("the driver")
    (directory / "hook").write_text(LINK)
    (directory / "hook").chmod(0o755)
    (directory / "nvidia.yaml").write_text(CDI.format(directory=directory))
    yield directory
    shutil.rmtree(directory)


def test_a_container_sees_the_gpus_that_it_was_given_and_no_other(settings: Settings, rootfs: Path, cdi: Path) -> None:
    found = [Found(Device(f"GPU-{number}", "L4", 1), str(number - 1)) for number in (1, 2)]
    gpus = Gpus(found, specs=Specs([cdi]), hook="")
    look = """
        echo $CUDA_VISIBLE_DEVICES $NVIDIA_VISIBLE_DEVICES $FROM_SPECIFICATION; ls -d /dev/nvidia*; cat /usr/lib/libdriver.so
        echo gone >/dev/nvidiactl; test -e /dev/nvidia0 && head -c 2 /dev/nvidia0 | od -An -tx1
        test -e /dev/nvidia1 && { echo x >/dev/nvidia1; } 2>&1
        mknod /tmp/own c 1 5 2>/dev/null || echo makes none; echo x >/usr/lib/libdriver.so.550 || echo read-only
    """

    async def seen(runtime: Runtime, container_id: str, *uuids: str) -> list[str]:
        spec = shell(rootfs, look, container_id, gpus=uuids, user="0")
        ended, output = await run(GpuRuntime(runtime, gpus), spec)  # type: ignore[arg-type]
        assert ended.code == 0, output.data
        return output.text.splitlines()

    async def check() -> None:
        async with opened(settings) as runtime:
            assert await seen(runtime, "ta-1", "GPU-1") == [
                *("GPU-1 void yes", "/dev/nvidia0", "/dev/nvidiactl", "the driver 00 00"),
                *("makes none", "read-only"),
            ]
            second = await seen(runtime, "ta-2", "GPU-2")
            assert second[:3] == ["GPU-2 void yes", "/dev/nvidia1", "/dev/nvidiactl"]
            assert "I/O error" in second[3]  # of the device that is always full
            nothing = await run(runtime, shell(rootfs, "ls -d /dev/nvidia* /usr/lib/libdriver*", "ta-3"))
            assert nothing[0].code != 0 and nothing[1].text == ""

    uvloop.run(check())
