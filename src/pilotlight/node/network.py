"""The containers' network: one bridge per platform, a veth pair per container, and what may pass.

Owns one invariant: a container reaches the internet, and of this machine only the platform's link-local address (the edge's port
and DNS); not its other ports and addresses, nor what it publishes there for others by rules of its own; not other containers, not
metadata services. Addresses are given out per platform and come back when the container's interface is gone. IP forwarding stays on
after the platform's end: others may rely on it by then.
"""

import contextlib
import ipaddress
import os
import socket
import subprocess
from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import structlog

from pilotlight.config import Settings
from pilotlight.core import errors
from pilotlight.node import netlink, syscalls

log = structlog.get_logger()

INTERFACE = "eth0"
ALL_BRIDGES = "pl-*"  # those of other platforms on this machine too
_LINK_LOCAL = "169.254.0.0/16"
# Where clouds tell a machine its credentials at other than link-local addresses: Azure, Alibaba, Oracle.
_METADATA = ("168.63.129.16", "100.100.100.200", "192.0.0.192")
_LOCALLY_ADMINISTERED = b"\x02\x00"  # how a hardware address begins that no manufacturer gave out (IEEE 802)
MOST_FLOWS = 16_384  # connections of one container that the machine keeps in mind, ended ones for two minutes
_FIRST_HOST = 2  # of the subnet: .0 is the network, .1 the gateway

RULES = """
table inet {table} {{
{flows}  chain input {{
    type filter hook input priority filter - 5; policy accept;
    iifname "{bridge}" jump from_containers
  }}
  chain from_containers {{
    meta nfproto != ipv4 drop
    ip saddr != {subnet} drop
    ct state established,related accept
{bounded}    ip daddr {address} tcp dport {{ 53, {web_port} }} accept
    ip daddr {address} udp dport 53 accept
    reject with icmpx type admin-prohibited
  }}
  chain forward {{
    type filter hook forward priority filter - 5; policy accept;
    iifname "{bridge}" jump outward
    oifname "{bridge}" ct state established,related accept
    oifname "{bridge}" drop
  }}
  chain outward {{
    meta nfproto != ipv4 drop
    ip saddr != {subnet} drop
{bounded}    oifname "{all_bridges}" reject with icmpx type admin-prohibited
    ip daddr {{ {closed} }} reject with icmpx type admin-prohibited
    ct direction original ct status dnat reject with icmpx type admin-prohibited
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
}}
"""
# The machine's table of connections is one for all: whoever fills it cuts everybody off.
FLOWS = """  set flows {{
    type ipv4_addr
    flags dynamic
    size 65535
  }}
"""
BOUNDED = """    ct state new add @flows {{ ip saddr ct count over {most} }} drop
"""


@dataclass(frozen=True)
class Port:
    """A container's place on the bridge."""

    address: IPv4Address
    interface: str  # the host's end of the pair


class Addresses:
    """Gives out the addresses of a subnet, the longest unused first, so that late packets for a dead container meet nobody."""

    def __init__(self, subnet: IPv4Network) -> None:
        self._subnet = subnet
        self._fresh = _FIRST_HOST
        self._returned: deque[int] = deque()

    def take(self) -> IPv4Address:
        if self._fresh < self._subnet.num_addresses - 1:
            self._fresh += 1
            return self._subnet[self._fresh - 1]
        if not self._returned:
            raise errors.OverLimit(f"All addresses of {self._subnet} are in use by containers.")
        return self._subnet[self._returned.popleft()]

    def give_back(self, address: IPv4Address) -> None:
        self._returned.append(int(address) - int(self._subnet.network_address))


class Network:
    """The bridge, the rules, and the containers' ends. Its calls block for about a millisecond: use them on a thread."""

    def __init__(self, settings: Settings) -> None:
        self.bridge = settings.bridge_name
        self.link_local = IPv4Address(settings.link_local_address)
        self._prefix = f"pv{settings.instance}"
        self._table = f"pilotlight_{settings.instance}"
        self._web_port = settings.web_port
        self._subnet = ipaddress.ip_network(settings.container_subnet)
        assert isinstance(self._subnet, IPv4Network)
        self._gateway = self._subnet[1]
        self._addresses = Addresses(self._subnet)
        self._bridge_index = 0

    def open(self) -> None:
        """Make the bridge with its two addresses and load the rules, in place of what a former agent left."""
        self.sweep()
        # The rules come first: the bridge is never there without them.
        try:
            _nft(self._rules(bounded=True))
        except errors.PilotlightError as error:
            _nft(self._rules(bounded=False))
            log.warning("network.flows_unbounded", cause=str(error), effect="one container can fill the table of connections")
        with netlink.Netlink() as link:
            link.request(netlink.new_bridge(self.bridge, _LOCALLY_ADMINISTERED + self._subnet[1].packed))
            self._bridge_index = socket.if_nametoindex(self.bridge)
            _write_sysctl(f"ipv6/conf/{self.bridge}/disable_ipv6", "1")
            link.request(
                netlink.add_address(self._bridge_index, IPv4Interface((self._gateway, self._subnet.prefixlen))),
                netlink.add_address(self._bridge_index, IPv4Interface((self.link_local, 32)), link_scope=True),
            )
        _write_sysctl("ipv4/ip_forward", "1")

    def close(self) -> None:
        self.sweep()

    def sweep(self) -> None:
        """Remove every interface and rule of this platform."""
        with netlink.Netlink() as link:
            for _, name in socket.if_nameindex():
                if name.startswith(self._prefix):
                    link.delete_link(name)
            link.delete_link(self.bridge)
        # Declaring it first makes the deletion succeed whether it was there or not.
        _nft(f"table inet {self._table}\ndelete table inet {self._table}\n")

    def take_port(self) -> Port:
        """An address and an interface name that nobody else has."""
        address = self._addresses.take()
        offset = int(address) - int(self._subnet.network_address)
        return Port(address, f"{self._prefix}{offset:04x}")

    def attach(self, port: Port, namespace_fd: int) -> None:
        """Connect a container's network namespace to the bridge and give it its address, as `eth0`."""
        with netlink.Netlink() as link:
            link.request(
                netlink.new_pair(port.interface, self._bridge_index, INTERFACE, namespace_fd), netlink.isolate(port.interface)
            )
        self._configure(namespace_fd, port.address)

    def attach_nothing(self, namespace_fd: int) -> None:
        """Only the loopback interface, up."""
        self._configure(namespace_fd, None)

    def tune(self, namespace_fd: int, sysctls: Mapping[str, str]) -> None:
        """Write settings ("net.ipv4.…") of a network namespace, as root of the host."""
        with _inside(namespace_fd):
            for name, value in sysctls.items():
                Path("/proc/sys", *name.split(".")).write_text(value)

    def mount_system(self, namespace_fd: int, target: str) -> None:
        """Mount a read-only sysfs that shows the interfaces of a network namespace."""
        with _inside(namespace_fd):
            flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
            syscalls.mount("sysfs", target, "sysfs", flags)

    def detach(self, port: Port) -> None:
        """Take the interface away, if the kernel has not yet done so, and the address back."""
        with netlink.Netlink() as link:
            link.delete_link(port.interface)
        self._addresses.give_back(port.address)

    def _configure(self, namespace_fd: int, address: IPv4Address | None) -> None:
        with _inside(namespace_fd):
            # Socket and index belong to the namespace in which they were asked for, so the thread visits it only for them.
            link = netlink.Netlink()
            index = socket.if_nametoindex(INTERFACE) if address is not None else 0
        messages = [netlink.set_up(netlink.LOOPBACK_INDEX)]
        if address is not None:
            # The address stands alone: neighbours are reached, or rather refused, by way of the gateway.
            messages += [
                netlink.set_up(index),
                netlink.add_address(index, IPv4Interface((address, 32))),
                netlink.add_host_route(self._gateway, index),
                netlink.add_default_route(self._gateway, index),
            ]
        with link:
            link.request(*messages)

    def _rules(self, *, bounded: bool) -> str:
        return RULES.format(
            flows=FLOWS.format() if bounded else "",
            bounded=BOUNDED.format(most=MOST_FLOWS) if bounded else "",
            table=self._table,
            bridge=self.bridge,
            all_bridges=ALL_BRIDGES,
            subnet=self._subnet,
            address=self.link_local,
            web_port=self._web_port,
            closed=", ".join((_LINK_LOCAL, str(self._subnet), *_METADATA)),
        )


@contextlib.contextmanager
def _inside(namespace_fd: int) -> Generator[None]:
    """The calling thread is in another network namespace for the body."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(namespace_fd, syscalls.CLONE_NEWNET)
        try:
            yield
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNET)
    finally:
        os.close(own)


def _write_sysctl(name: str, value: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # a kernel without that protocol needs no such setting
        path = Path("/proc/sys/net", name)
        if path.read_text().strip() != value:
            path.write_text(value)


def _nft(script: str) -> None:
    try:
        result = subprocess.run(["nft", "-f", "-"], input=script, text=True, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise errors.PilotlightError("The command nft is missing. Install it: apt-get install nftables") from error
    if result.returncode:
        raise errors.PilotlightError(
            f"The firewall rules of the containers' network could not be loaded: {result.stderr.strip()}. "
            "The kernel needs nf_tables with NAT; `pilotlight doctor` tells.",
            script=script,
        )
