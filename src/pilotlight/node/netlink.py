"""The few rtnetlink requests that a container's network needs, written out by hand.

Owns one invariant: a socket speaks to the network namespace of the thread that opened it, whatever thread uses it later. Written by
hand because a start of a container is counted in milliseconds: five requests take 0.3 ms here, where a general library spends
several building the objects around them. Sources: rtnetlink(7), linux/if_link.h, linux/veth.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface

_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE = 16, 17, 20, 24
_REQUEST, _ACK, _CREATE, _EXCL, _REPLACE = 0x1, 0x4, 0x400, 0x200, 0x100
_ERROR = 2
_IFF_UP = 1

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 10, 18, 28
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_BRPORT_ISOLATED = 33
_BR_FORWARD_DELAY, _BR_STP_STATE, _BR_MCAST_SNOOPING = 1, 5, 23
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_SCOPE_LINK, _SCOPE_UNIVERSE = 253, 0
_TABLE_MAIN, _PROTOCOL_BOOT, _TYPE_UNICAST = 254, 3, 1

PEER_INDEX = (
    1000  # of eth0: chosen by us, so that nobody has to ask for it; above what a kernel puts into a new namespace by itself
)
LOOPBACK_INDEX = 1


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, change)


class Netlink:
    """A route socket of the calling thread's network namespace. Requests go out in batches."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, *messages: "Message") -> None:
        """Send all, wait for every acknowledgement; raises the `OSError` of the first that failed, naming it."""
        names: dict[int, str] = {}
        packed: list[bytes] = []
        for message in messages:
            self._sequence += 1
            names[self._sequence] = message.name
            header = struct.pack("=IHHII", 16 + len(message.body), message.kind, message.flags | _REQUEST | _ACK, self._sequence, 0)
            packed.append(header + message.body)
        self._socket.send(b"".join(packed))
        failed: OSError | None = None
        while names:
            for sequence, code in _acknowledgements(self._socket.recv(65536)):
                name = names.pop(sequence, None)
                if name is not None and code and failed is None:
                    failed = OSError(code, f"{name}: {os.strerror(code)}")
        if failed:
            raise failed

    def delete_link(self, name: str) -> bool:
        """Remove an interface, and its peer with it. False if there was none."""
        try:
            self.request(Message("delete " + name, _DELLINK, 0, _link() + _text(_IFLA_IFNAME, name)))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return True


def _acknowledgements(data: bytes) -> Iterable[tuple[int, int]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data, offset)
        if kind == _ERROR:
            yield sequence, -struct.unpack_from("=i", data, offset + 16)[0]
        offset += (length + 3) & ~3


class Message:
    """One request: what it is for people, its type, flags and body."""

    __slots__ = ("body", "flags", "kind", "name")

    def __init__(self, name: str, kind: int, flags: int, body: bytes) -> None:
        self.name, self.kind, self.flags, self.body = name, kind, flags, body


def new_bridge(name: str, hardware_address: bytes) -> Message:
    """A bridge that is up, without spanning tree, so that a new port forwards at once.

    Without an address of its own (6 bytes) it would take the lowest of its ports: one that changes as containers come and go, while
    those that stay go on sending to the old one until their neighbour entry has aged.
    """
    settings = _number(_BR_FORWARD_DELAY, 0) + _number(_BR_STP_STATE, 0) + _attribute(_BR_MCAST_SNOOPING, b"\0")
    info = _attribute(_IFLA_LINKINFO, _text(_INFO_KIND, "bridge") + _attribute(_INFO_DATA, settings))
    body = _link(0, _IFF_UP, _IFF_UP) + _text(_IFLA_IFNAME, name) + _attribute(_IFLA_ADDRESS, hardware_address) + info
    return Message(f"create bridge {name}", _NEWLINK, _CREATE | _EXCL, body)


def new_pair(name: str, bridge: int, peer_name: str, namespace_fd: int) -> Message:
    """A veth pair: ours up and on the bridge, the peer in another network namespace, down."""
    peer = _link() + _text(_IFLA_IFNAME, peer_name) + _number(_IFLA_NET_NS_FD, namespace_fd)
    info = _text(_INFO_KIND, "veth") + _attribute(_INFO_DATA, _attribute(_VETH_INFO_PEER, peer))
    body = _link(0, _IFF_UP, _IFF_UP) + _text(_IFLA_IFNAME, name) + _number(_IFLA_MASTER, bridge) + _attribute(_IFLA_LINKINFO, info)
    return Message(f"create {name}", _NEWLINK, _CREATE | _EXCL, body)


def isolate(name: str) -> Message:
    """This port of a bridge may speak to the bridge itself, and to no other isolated port."""
    slave = _text(_INFO_SLAVE_KIND, "bridge") + _attribute(_INFO_SLAVE_DATA, _attribute(_BRPORT_ISOLATED, b"\1"))
    return Message(f"isolate {name}", _NEWLINK, 0, _link() + _text(_IFLA_IFNAME, name) + _attribute(_IFLA_LINKINFO, slave))


def set_up(index: int) -> Message:
    return Message(f"set interface {index} up", _NEWLINK, 0, _link(index, _IFF_UP, _IFF_UP))


def add_address(index: int, interface: IPv4Interface, *, link_scope: bool = False) -> Message:
    """Give an interface an address."""
    scope = _SCOPE_LINK if link_scope else _SCOPE_UNIVERSE
    header = struct.pack("=BBBBi", socket.AF_INET, interface.network.prefixlen, 0, scope, index)
    body = header + _attribute(_IFA_LOCAL, interface.ip.packed) + _attribute(_IFA_ADDRESS, interface.ip.packed)
    return Message(f"add address {interface}", _NEWADDR, _CREATE | _REPLACE, body)


def _route(length: int, scope: int) -> bytes:
    return struct.pack("=BBBBBBBBI", socket.AF_INET, length, 0, 0, _TABLE_MAIN, _PROTOCOL_BOOT, scope, _TYPE_UNICAST, 0)


def add_host_route(address: IPv4Address, index: int) -> Message:
    """This address is to be found on the link itself."""
    body = _route(32, _SCOPE_LINK) + _attribute(_RTA_DST, address.packed) + _number(_RTA_OIF, index)
    return Message(f"add route to {address}", _NEWROUTE, _CREATE | _EXCL, body)


def add_default_route(gateway: IPv4Address, index: int) -> Message:
    """Everything else goes by this gateway."""
    body = _route(0, _SCOPE_UNIVERSE) + _attribute(_RTA_GATEWAY, gateway.packed) + _number(_RTA_OIF, index)
    return Message(f"add default route by {gateway}", _NEWROUTE, _CREATE | _EXCL, body)
