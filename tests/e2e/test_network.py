"""What may pass between a container and the world, with a small world of our own behind the machine: a namespace that it routes to.

The world is what the internet is to a machine: none of its own addresses. It serves at an ordinary address, and at those where
clouds tell credentials; and the machine publishes one of its ports, as container engines do.
"""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop
from test_runtime import NEIGHBOUR, Output, opened, python, rootfs, run, settings  # noqa: F401 - fixtures of real containers

from pilotlight.config import Settings

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("crun", "ip", "nft"))), reason="needs root, crun, iproute2 and nft"
    ),
]

HERE, WORLD = "198.51.100.1", "198.51.100.2"
METADATA = ("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "169.254.170.2")
SERVED, PUBLISHED = 8000, 9000
DEADLINE_S = 60

SERVER = f"""
import socket
server = socket.create_server(("0.0.0.0", {SERVED}))
print("up", flush=True)
while True:
    client, address = server.accept()
    client.sendall(address[0].encode())
    client.close()
"""

# What a container gets from each place: the address under which it is known there, or nothing.
ASK = """
import socket
for target in {targets}:
    try:
        with socket.create_connection(target, timeout=5) as door:
            print(*target, door.recv(64).decode())
    except OSError as error:
        print(*target, "refused", type(error).__name__)
"""


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


@dataclass(frozen=True)
class World:
    """A namespace behind the machine."""

    name: str

    def reaches(self, address: str, port: int) -> bool:
        """Whether somebody out there can connect to an address."""
        script = f"import socket; socket.create_connection(({address!r}, {port}), timeout=2)"
        return (
            subprocess.run(["ip", "netns", "exec", self.name, "python3", "-c", script], capture_output=True, check=False).returncode
            == 0
        )


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:  # noqa: F811
    name = f"w{settings.instance}"
    table = f"table ip published_{settings.instance}"
    try:
        ip("netns", "add", name)
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        ip("addr", "add", f"{HERE}/24", "dev", f"{name}a")
        ip("link", "set", f"{name}a", "up")
        inside = ("-n", name)
        ip(*inside, "addr", "add", f"{WORLD}/24", "dev", f"{name}b")
        ip(*inside, "link", "set", f"{name}b", "up")
        ip(*inside, "link", "set", "lo", "up")
        ip(*inside, "route", "add", "default", "via", HERE)
        for address in METADATA:
            ip(*inside, "addr", "add", f"{address}/32", "dev", f"{name}b")
            ip("route", "add", f"{address}/32", "via", WORLD)
        rule = f"ip daddr {HERE} tcp dport {PUBLISHED} dnat to {WORLD}:{SERVED}"
        publish = f"{table} {{\n chain c {{\n type nat hook prerouting priority dstnat\n {rule}\n }}\n}}\n"
        subprocess.run(["nft", "-f", "-"], input=publish, text=True, check=True, capture_output=True)
        with subprocess.Popen(["ip", "netns", "exec", name, "python3", "-c", SERVER], stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout and server.stdout.readline() == b"up\n"
                yield World(name)
            finally:
                server.kill()
    finally:
        subprocess.run(["nft", f"{table}; delete {table}"], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", f"{name}a"], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def own_addresses() -> list[str]:
    """The addresses of this machine, but those of loopback and of platforms."""
    shown = subprocess.run(["ip", "-4", "-o", "addr"], check=True, capture_output=True, text=True).stdout.splitlines()
    found = [(line.split()[1], line.split()[3].partition("/")[0]) for line in shown]
    return [address for name, address in found if name != "lo" and not name.startswith("pl-")]


def test_a_container_reaches_the_world_and_no_address_where_credentials_or_services_of_the_machine_are(
    settings: Settings,  # noqa: F811
    rootfs: Path,  # noqa: F811
    world: World,
) -> None:
    async def check() -> None:
        async with opened(settings) as runtime:
            with socket.create_server(("0.0.0.0", 0)) as service:
                port = service.getsockname()[1]
                closed = [(address, SERVED) for address in METADATA] + [(HERE, PUBLISHED)]
                closed += [(address, port) for address in own_addresses()]
                ended, output = await run(runtime, python(rootfs, ASK.format(targets=[(WORLD, SERVED), *closed])))
                assert ended.code == 0, output.data
                lines = output.text.splitlines()
                # It is known there by the machine's address, not by its own.
                assert lines[0] == f"{WORLD} {SERVED} {HERE}"
                assert all("refused" in line for line in lines[1:]), lines
                assert len(lines) == 1 + len(closed) and len(closed) > len(METADATA) + 1

    assert world.reaches(WORLD, SERVED)
    uvloop.run(check())


def test_nobody_out_there_reaches_a_container(settings: Settings, rootfs: Path, world: World) -> None:  # noqa: F811
    async def check() -> None:
        async with opened(settings) as runtime:
            other = Output()
            neighbour = await runtime.start(python(rootfs, NEIGHBOUR, "ta-neighbour"), other)
            await other.until("up")
            address = other.text.split()[0]
            socket.create_connection((address, 8000), DEADLINE_S).close()  # the machine itself does
            assert not await asyncio.to_thread(world.reaches, address, 8000)
            await neighbour.kill()

    uvloop.run(check())


def test_a_container_without_network_reaches_nothing_and_nobody(settings: Settings, rootfs: Path, world: World) -> None:  # noqa: F811
    async def check() -> None:
        async with opened(settings) as runtime:
            targets = [(WORLD, SERVED), (HERE, PUBLISHED), (settings.link_local_address, 53)]
            ended, output = await run(runtime, python(rootfs, ASK.format(targets=targets), block_network=True))
            assert ended.code == 0, output.data
            lines = output.text.splitlines()
            assert len(lines) == len(targets) and all("refused" in line for line in lines), lines

    assert world.reaches(WORLD, SERVED)
    uvloop.run(check())
