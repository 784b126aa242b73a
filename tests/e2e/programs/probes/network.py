"""The machine, its neighbours and the other containers, by every kind of socket."""

import errno
import fcntl
import os
import socket
import struct
from functools import partial

from . import Attempts, probe

WAIT_S = 0.7
LINK_LOCAL = ("169.254.169.254", "169.254.170.2", "169.254.169.123", "169.254.1.1")
SENT_BY_KERNEL = {"crypto": 21, "audit": 9, "events of devices": 15, "connector": 11, "xfrm": 6, "selinux": 7, "iscsi": 8}
SIOCSIFADDR, SIOCSIFFLAGS, SIOCSIFHWADDR, SIOCBRADDBR, SIOCADDRT, TUNSETIFF = 0x8916, 0x8914, 0x8924, 0x89A0, 0x890B, 0x400454CA


def _socket(family: int, kind: int, protocol: int = 0) -> str:
    socket.socket(family, kind, protocol).close()
    return "made"


def _dial(address: str, port: int) -> str:
    with socket.create_connection((address, port), timeout=WAIT_S) as door:
        return f"connected from {door.getsockname()}"


@probe()
def raw_packets(attempts: Attempts) -> None:
    for protocol in (1, 6, 17, 255):
        attempts.denied(f"raw IP {protocol}", partial(_socket, socket.AF_INET, socket.SOCK_RAW, protocol))
    attempts.denied("raw ICMPv6", partial(_socket, socket.AF_INET6, socket.SOCK_RAW, 58))
    attempts.denied("packets", partial(_socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    attempts.denied("cooked packets", partial(_socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)))


@probe()
def odd_families(attempts: Attempts) -> None:
    """Kinds of sockets that no program of ours needs: each is code of the kernel, some of it loaded because somebody asks."""
    usual = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET}
    for family in range(1, 46):
        if family not in usual:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW):
                attempts.denied(f"family {family}, kind {kind}", partial(_socket, family, kind))


@probe()
def hypervisor(attempts: Attempts) -> None:
    attempts.denied("AF_VSOCK", partial(_socket, 40, socket.SOCK_STREAM))
    attempts.denied("open /dev/vsock", partial(os.open, "/dev/vsock", os.O_RDWR))


@probe(on_host=False)
def settings_of_the_network(attempts: Attempts) -> None:
    """Another address, another hardware address, listening to all, a route, a bridge, a tunnel."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        name = next((name for _, name in socket.if_nameindex() if name != "lo"), "lo").encode()
        address = struct.pack("=16sH2x4s8x", name, socket.AF_INET, socket.inet_aton("203.0.113.77"))
        asked = {
            "address": (SIOCSIFADDR, address),
            "promiscuous": (SIOCSIFFLAGS, struct.pack("=16sH14x", name, 0x1 | 0x40 | 0x100)),
            "hardware address": (SIOCSIFHWADDR, struct.pack("=16sH6s8x", name, 1, b"\2\0\0\0\0\7")),
            "bridge": (SIOCBRADDBR, b"escape\0" + bytes(25)),
            "route": (SIOCADDRT, bytes(120)),
        }
        for what, (request, argument) in asked.items():
            try:
                fcntl.ioctl(door, request, bytearray(argument))
            except OSError as error:
                refused = error.errno in (errno.EPERM, errno.EACCES, errno.ENOTTY, errno.EOPNOTSUPP)
                (attempts.refused if refused else attempts.reached)(f"{what}: {error}")
            else:
                attempts.reached(what)


@probe(own_kernel=True)
def messages_of_the_kernel(attempts: Attempts) -> None:
    """Netlink: rules of the firewall, the audit, events of devices and processes; the routes that are seen are our own."""
    for name, protocol in SENT_BY_KERNEL.items():
        attempts.finds(name, partial(_listen, protocol))
    attempts.finds("a new address", partial(_new_address))
    attempts.finds("firewall", partial(_tables))


def _listen(protocol: int) -> str:
    """What comes of the group that tells everything, once somebody has asked for the doings of processes."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as door:
        door.settimeout(WAIT_S)
        door.bind((0, 1))
        if protocol == SENT_BY_KERNEL["connector"]:
            door.send(struct.pack("=IHHII IIIIHHI", 40, 3, 0, 0, 0, 1, 1, 0, 0, 4, 0, 1))
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
        try:
            return f"{len(door.recv(4096))} bytes"
        except TimeoutError:
            return ""


def _ask(protocol: int, kind: int, flags: int, body: bytes) -> int:
    """Errno with which the kernel answers a request; 0 if it did it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as door:
        door.settimeout(WAIT_S)
        door.sendto(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body, (0, 0))
        reply = door.recv(65536)
        if struct.unpack_from("=H", reply, 4)[0] != 2:
            return 0
        return -struct.unpack_from("=i", reply, 16)[0]


def _new_address() -> str:
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 1) + struct.pack("=HH4s", 8, 2, socket.inet_aton("203.0.113.78"))
    body += struct.pack("=HH4s", 8, 1, socket.inet_aton("203.0.113.78"))
    answered = _ask(0, 20, 0x5 | 0x400, body)
    if not answered:
        _ask(0, 21, 0x5, body)  # where it was given, it is taken away again
    return "" if answered in (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP) else f"answered {answered}"


def _tables() -> str:
    answered = _ask(12, (10 << 8) | 1, 0x301, struct.pack("=BBH", 0, 0, 0))
    return "" if answered in (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP) else f"answered {answered}"


@probe()
def abstract_sockets(attempts: Attempts) -> None:
    """Unix sockets without a file: those of the host and of other containers."""
    for name in attempts.around.abstract:
        attempts.denied(name, partial(_dial_abstract, name))


def _dial_abstract(name: str) -> str:
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(WAIT_S)
        door.connect(b"\0" + name.encode())
    return name


@probe()
def ports_of_the_host(attempts: Attempts) -> None:
    """What listens on the machine, at each of its addresses, and at the loopback address that we both have."""
    for address in (*attempts.around.addresses, "127.0.0.1", "0.0.0.0"):
        for port in attempts.around.ports:
            attempts.denied(f"{address}:{port}", partial(_dial, address, port))


@probe(on_host=False)
def datagrams_to_the_host(attempts: Attempts) -> None:
    """A refusal comes back as an error of the next call; what is not refused was let through or dropped, which the host knows."""
    for address in attempts.around.addresses:
        for port in attempts.around.ports:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
                door.settimeout(WAIT_S / 4)
                door.connect((address, port))
                attempts.finds(f"{address}:{port}", partial(_exchange, door))


def _exchange(door: socket.socket) -> bytes:
    door.send(b"escape")
    try:
        return door.recv(64)
    except TimeoutError:
        return b""


@probe(on_host=False)
def metadata_of_clouds(attempts: Attempts) -> None:
    for address in LINK_LOCAL:
        for port in (80, 53, 443):
            attempts.denied(f"{address}:{port}", partial(_dial, address, port))
    attempts.denied("fd00:ec2::254", partial(_dial, "fd00:ec2::254", 80))


@probe(on_host=False)
def the_neighbour(attempts: Attempts) -> None:
    """Another container, which listens on all its addresses."""
    address, port = attempts.around.neighbour, attempts.around.neighbour_port
    assert address, "it has an address"
    attempts.denied("by TCP", partial(_dial, address, port))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.settimeout(WAIT_S)
        door.connect((address, port))
        attempts.finds("by UDP", partial(_exchange, door))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for to in ("255.255.255.255", "224.0.0.1", f"{address.rpartition('.')[0]}.255"):
            attempts.finds(f"by a datagram to {to}, which the neighbour would tell of", partial(_cast, door, to, port))


def _cast(door: socket.socket, address: str, port: int) -> bytes:
    door.settimeout(WAIT_S / 4)
    door.sendto(b"escape", (address, port))
    try:
        return door.recv(64)
    except TimeoutError:
        return b""


@probe(on_host=False)
def forged_addresses(attempts: Attempts) -> None:
    """To speak in the name of the neighbour."""
    for option, name in ((15, "IP_FREEBIND"), (19, "IP_TRANSPARENT")):
        attempts.denied(name, partial(_send_as, attempts.around.neighbour, option, attempts.around.addresses[0]))


def _send_as(address: str, option: int, to: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.setsockopt(socket.SOL_IP, option, 1)
        door.bind((address, 0))
        return door.sendto(b"escape", (to, 53))


@probe(on_host=False)
def sixth_version(attempts: Attempts) -> None:
    """No rule is written for IPv6, so there must be none of it."""
    for address in ("ff02::1%eth0", "fe80::1%eth0", "2001:db8::1", "::ffff:169.254.169.254"):
        attempts.denied(address, partial(_send_six, address))


def _send_six(address: str) -> int:
    found = socket.getaddrinfo(address, 53, socket.AF_INET6, socket.SOCK_DGRAM)[0]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as door:
        door.settimeout(WAIT_S)
        door.connect(found[4])
        door.send(b"escape")
        return len(door.recv(64))
