"""Containers that take all they can get, one kind of thing each, while another one works on.

Each flood says what it got and what stopped it, and keeps it until it is told to let go. Meanwhile the neighbour must answer, get a
little of the same things itself, and a new container must start. One line of JSON per flood.
"""

import ctypes
import json
import os
import pty
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import modal

app = modal.App("floods")
image = modal.Image.debian_slim()
GATEWAY = "/__pilotlight/gateway.sock"
libc = ctypes.CDLL(None, use_errno=True)

FLOODS: dict[str, Callable[[], Any]] = {}
DEADLY = {"memory", "shared_memory"}  # those that end with the container


def flood(function: Callable[[], Any]) -> Callable[[], Any]:
    FLOODS[function.__name__] = function
    return function


def until_refused(act: Callable[[], Any], most: int) -> str:
    """Repeat it; how often it worked, and the error that ended it."""
    for number in range(most):
        try:
            act()
        except (OSError, RuntimeError, MemoryError) as error:
            return f"{number}, then {error}"
    return f"{most} and no end"


@flood
def processes() -> str:
    return until_refused(lambda: os.posix_spawn("/bin/sleep", ["sleep", "300"], {}), 20_000)


@flood
def threads() -> str:
    threading.stack_size(64 * 1024)
    over = threading.Event()
    return until_refused(lambda: threading.Thread(target=over.wait, daemon=True).start(), 20_000)


@flood
def memory() -> str:
    kept = []
    while True:
        kept.append(b"x" * (8 << 20))


@flood
def shared_memory() -> str:
    with open("/dev/shm/flood", "wb", buffering=0) as file:
        return until_refused(lambda: file.write(b"x" * (8 << 20)), 1000)


@flood
def device_directory() -> str:
    with open("/dev/flood", "wb", buffering=0) as file:
        got = until_refused(lambda: file.write(b"x" * (1 << 20)), 1000)
    os.unlink("/dev/flood")
    return got


@flood
def disk() -> str:
    with open("/tmp/flood", "wb", buffering=0) as file:
        return until_refused(lambda: file.write(b"x" * (8 << 20)), 1000)


@flood
def inodes() -> str:
    Path("/tmp/many").mkdir()
    names = iter(range(10_000_000))
    return until_refused(lambda: Path(f"/tmp/many/{next(names)}").touch(), 200_000)


@flood
def depth() -> str:
    """Directories in one another, more than a program goes down by recursion when it takes them away."""
    os.chdir("/tmp")

    def deeper() -> None:
        os.mkdir("d")
        os.chdir("d")

    return f"{until_refused(deeper, 3_000)} and then its end"


@flood
def descriptors() -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for _ in range(8):
        if os.fork() == 0:
            until_refused(lambda: os.open("/dev/null", os.O_RDONLY), 1_000_000)
            signal.pause()
    time.sleep(3)
    return until_refused(lambda: os.open("/dev/null", os.O_RDONLY), 1_000_000)


@flood
def pipes() -> str:
    kept = []

    def fill() -> None:
        _, write = ends = os.pipe()
        kept.append(ends)
        os.set_blocking(write, False)
        os.write(write, b"x" * 65_536)

    return until_refused(fill, 1500)


@flood
def watches() -> str:
    def make() -> None:
        if libc.inotify_init1(0) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    return until_refused(make, 5_000)


@flood
def terminals() -> str:
    return until_refused(pty.openpty, 10_000)


@flood
def pending_signals() -> str:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
    child = os.fork()  # which inherits the mask, and has no other thread that would take them
    if child == 0:
        time.sleep(300)

    def queue() -> None:
        if libc.sigqueue(child, signal.SIGRTMIN, None) < 0:
            raise OSError(ctypes.get_errno(), "sigqueue")

    return until_refused(queue, 1_000_000)


@flood
def message_queues() -> str:
    names = iter(range(1_000_000))

    def make() -> None:
        if libc.mq_open(f"/flood{next(names)}".encode(), os.O_CREAT | os.O_RDWR, 0o600, None) < 0:
            raise OSError(ctypes.get_errno(), "mq_open")

    return until_refused(make, 5_000)


@flood
def connections() -> str:
    """Through the machine's table of connections: each datagram to another address is an entry."""
    door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    addresses = iter(range(1, 1 << 24))

    def send() -> None:
        number = next(addresses)
        with suppress(PermissionError, ConnectionRefusedError):
            door.sendto(b"x", (socket.inet_ntoa(struct.pack("!I", (198 << 24) + (18 << 16) + number)), 9))

    return until_refused(send, 60_000)


@flood
def gateway_connections() -> str:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    kept = []

    def dial() -> None:
        door = socket.socket(socket.AF_UNIX)
        while True:
            with suppress(BlockingIOError):  # the backlog is full
                door.connect(GATEWAY)
                break
            time.sleep(0.01)
        kept.append(door)

    until_refused(dial, 3_000)
    time.sleep(1)
    FLOODS["kept"] = lambda: kept
    return f"{sum(map(still_open, kept))}, then closed"


def still_open(door: socket.socket) -> bool:
    door.setblocking(False)
    try:
        return door.recv(65536) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@flood
def gateway_nonsense() -> str:
    """Bytes that are no HTTP/2, frames that never end, and headers without bounds."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4\0" + bytes(4)
    said = []
    for piece in (os.urandom(1 << 20), preface + b"\xff\xff\xff\1\4\0\0\0\1" + bytes(1 << 20), preface + bytes(9) * 100_000):
        door = socket.socket(socket.AF_UNIX)
        door.settimeout(3)
        door.connect(GATEWAY)
        with suppress(OSError):
            door.sendall(piece)
        headers = preface + b"\0\x3f\xff\1\0\0\0\0\1" + b"\0\x7f\x80\1" + b"x" * 16_379
        with suppress(OSError):
            for _ in range(2_000):
                door.sendall(headers if _ == 0 else b"\0\x3f\xff\x09\0\0\0\0\1" + b"x" * 16_383)
        said.append(type(door).__name__)
    return f"{len(said)} connections"


@flood
def gateway_messages() -> str:
    """Eight messages of 100 MiB, none of which is ever ended."""
    sys.path.append("/pkg")
    import h2.config
    import h2.connection
    import h2.exceptions

    size, piece = 100 << 20, b"x" * 16_384
    door = socket.socket(socket.AF_UNIX)
    door.connect(GATEWAY)
    speaker = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    speaker.initiate_connection()
    left: dict[int, int] = {}
    ending = time.monotonic() + 30
    with suppress(OSError, EOFError, h2.exceptions.ProtocolError):
        while time.monotonic() < ending and (len(left) < 8 or any(left.values())):
            if len(left) < 8:
                number = speaker.get_next_available_stream_id()
                path = "/modal.client.ModalClient/FunctionPutOutputs"
                headers = {
                    ":method": "POST",
                    ":scheme": "http",
                    ":path": path,
                    ":authority": "x",
                    "content-type": "application/grpc",
                }
                speaker.send_headers(number, [*headers.items(), ("te", "trailers")])
                speaker.send_data(number, b"\0" + struct.pack("!I", size))
                left[number] = size - len(piece)
            for number in list(left):
                with suppress(h2.exceptions.StreamClosedError):
                    while left[number] > len(piece) and speaker.local_flow_control_window(number) >= len(piece):
                        speaker.send_data(number, piece)
                        left[number] -= len(piece)
                        if left[number] <= len(piece):
                            left[number] = 0
            door.settimeout(10)
            door.sendall(speaker.data_to_send())
            door.settimeout(0.2)
            with suppress(TimeoutError):
                if not (data := door.recv(1 << 20)):
                    break
                speaker.receive_data(data)
    FLOODS["kept"] = lambda: door
    return f"{sum(size - len(piece) - rest for rest in left.values()) >> 20} MiB of messages"


@flood
def lines() -> str:
    line = b"flood " * 20 + b"\n"
    for _ in range(12_000):
        os.write(1, line * 30)
    return "45 MB in lines"


@flood
def one_line() -> str:
    for _ in range(400):
        os.write(1, b"x" * 100_000)
    return "40 MB in one line"


@app.function(image=image, timeout=300, memory=(256, 3072), single_use_containers=True)
def take(name: str, mail: modal.Queue) -> str:
    mail.put(f"begun {os.environ['MODAL_TASK_ID']}", partition=name)
    got = FLOODS[name]()
    mail.put(got, partition=name)
    mail.get(partition=f"{name}-over", timeout=120)
    return got


@app.function(image=image, timeout=300, min_containers=1, scaledown_window=300)
def neighbour() -> list[str]:
    """A little of everything that others flood; what it could not get."""
    missing = []

    def get(what: str, act: Callable[[], Any]) -> None:
        try:
            if act() in (-1, None):
                missing.append(what)
        except (OSError, RuntimeError) as error:
            missing.append(f"{what}: {error}")

    get("inotify", lambda: os.close(libc.inotify_init1(0)) or 0)
    get("terminal", lambda: [os.close(end) for end in pty.openpty()])
    get("process", lambda: os.waitpid(os.fork() or os._exit(0), 0))  # type: ignore[func-returns-value]
    get("message queue", _queue)
    get("timer", _timer)
    get("file", lambda: Path("/tmp/own").write_bytes(b"x" * 1_000_000))
    get("memory", lambda: bytearray(32 << 20))
    get("descriptor", lambda: os.close(os.dup(0)) or 0)
    get("name", lambda: socket.getaddrinfo("localhost", 80))
    return missing


def _queue() -> int:
    queue = libc.mq_open(b"/own", os.O_CREAT | os.O_RDWR, 0o600, None)
    if queue >= 0:
        libc.mq_unlink(b"/own")
        os.close(queue)
    return queue


def _timer() -> int:
    timer = ctypes.c_void_p()
    result = libc.timer_create(0, None, ctypes.byref(timer))
    if result == 0:
        libc.timer_delete(timer)
    return result


@app.function(image=image, single_use_containers=True)
def fresh() -> int:
    return 42


def main() -> None:
    wanted = sys.argv[1:]
    with app.run(), modal.Queue.ephemeral() as mail:
        neighbour.remote()
        for name in list(FLOODS):
            if wanted and name not in wanted:
                continue
            call = take.spawn(name, mail)
            report: dict[str, Any] = {"flood": name, "begun": mail.get(partition=name, timeout=60)}
            if name in DEADLY:
                report["got"] = _end_of(call)
            else:
                report["got"] = mail.get(partition=name, timeout=90)
            report["flows"] = _flows()
            began = time.monotonic()
            report["missing"] = neighbour.remote()
            report["answer_s"] = round(time.monotonic() - began, 2)
            began = time.monotonic()
            assert fresh.remote() == 42
            report["start_s"] = round(time.monotonic() - began, 2)
            print(json.dumps(report), flush=True)
            if name not in DEADLY:
                mail.put("over", partition=f"{name}-over")
                with suppress(Exception):
                    call.get(timeout=30)


def _flows() -> int:
    """Connections in the table of this machine, where the platform is too."""
    file = Path("/proc/sys/net/netfilter/nf_conntrack_count")
    return int(file.read_text()) if file.exists() else 0


def _end_of(call: modal.FunctionCall[Any]) -> str:
    try:
        return f"all: {call.get(timeout=60)}"
    except Exception as error:  # noqa: BLE001 - whatever is told of it
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
