"""modal.forward through a real container: TLS by an authority of the platform's own, raw TCP, restarts, ends."""

import json
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import PROGRAMS, Platform, Program

pytestmark = pytest.mark.e2e

LIMIT_S = 100.0
NO_CONNECTION = (ssl.SSLError, ConnectionResetError)  # within the handshake
BLOB = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def running(platform: Platform) -> Iterator[tuple[Program, Mapping[str, Any]]]:
    """The program, and what it said of its tunnels."""
    program = platform.start("-m", "modal", "run", str(PROGRAMS / "tunnels.py"), deadline_s=900)
    try:
        program.until("tunnels: {")
        found = re.search(r"tunnels: (\{.*?\})", program.text)
        assert found, program.text
        yield program, json.loads(found[1])
    finally:
        program.kill()


@pytest.fixture
def said(running: tuple[Program, Mapping[str, Any]]) -> Mapping[str, Any]:
    return running[1]


def authority(platform: Platform) -> Path:
    return platform.settings.keys_dir / "ca.pem"


def trusting(platform: Platform, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority(platform)))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def connect(context: ssl.SSLContext, name: str, port: int) -> ssl.SSLSocket:
    """As a client does that finds this machine by the name."""
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S), server_hostname=name)


def get(context: ssl.SSLContext, url: str, path: str) -> str:
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    with connect(context, parts.hostname, parts.port) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def echoed(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=LIMIT_S) as connection:
        connection.sendall(BLOB)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_curl_that_trusts_the_authority_gets_pages(platform: Platform, said: Mapping[str, Any]) -> None:
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--cacert", str(authority(platform)), said["web"] + "/a?b=c"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.stdout == "you asked for /a?b=c", done.stderr
    unbelieving = subprocess.run([*command[:5], said["web"]], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert unbelieving.returncode == 60, unbelieving


def test_keys_are_the_owners_alone(platform: Platform, said: Mapping[str, Any]) -> None:
    assert {path.stat().st_mode & 0o777 for path in platform.settings.keys_dir.iterdir()} == {0o600}


def test_only_names_of_tunnels_get_a_connection(platform: Platform, said: Mapping[str, Any]) -> None:
    port = urlsplit(said["web"]).port
    assert port
    with pytest.raises(NO_CONNECTION):
        connect(trusting(platform), "abc.tunnel.localhost", port)
    nameless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nameless.check_hostname, nameless.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(NO_CONNECTION), socket.create_connection(("127.0.0.1", port)) as connection:
        nameless.wrap_socket(connection)


def test_http_2_is_offered_where_the_program_says_so(platform: Platform, said: Mapping[str, Any]) -> None:
    for tunnel, protocol in (("h2", "h2"), ("web", "http/1.1")):
        parts = urlsplit(said[tunnel])
        assert parts.hostname and parts.port
        with connect(trusting(platform, "h2", "http/1.1"), parts.hostname, parts.port) as connection:
            assert connection.selected_alpn_protocol() == protocol


def test_raw_bytes_pass_as_they_are_and_each_half_ends_by_itself(platform: Platform, said: Mapping[str, Any]) -> None:
    host, port = said["raw"]
    assert host == "127.0.0.1" and 20_000 <= port <= 20_999
    assert echoed((host, port)) == BLOB


def test_a_port_is_forwarded_once(said: Mapping[str, Any]) -> None:
    assert said["problem"] == "Port 8000 is already forwarded"


@pytest.mark.slow
@pytest.mark.parametrize("process", ["edge", "server"])
def test_tunnels_outlive_a_crash(platform: Platform, said: Mapping[str, Any], process: str) -> None:
    before = platform.pid(process)
    platform.kill(process)
    assert "you asked for /again" in get(trusting(platform), said["web"], "/again")  # waits in the supervisor's socket
    platform.control("status")
    assert platform.pid(process) != before
    assert "you asked for /again" in get(trusting(platform), said["web"], "/again")
    assert echoed(tuple(said["raw"])) == BLOB


def test_a_tunnel_ends_when_its_program_leaves_it_or_ends(platform: Platform, running: tuple[Program, Mapping[str, Any]]) -> None:
    program, said = running
    assert "you asked for /leave" in get(trusting(platform), said["web"], "/leave")
    program.until("the echo is closed")
    with pytest.raises(ConnectionRefusedError):
        echoed(tuple(said["raw"]))
    with pytest.raises(NO_CONNECTION):
        connect(trusting(platform), *said["tls"])
    program.signal(signal.SIGINT)
    program.end()
    parts = urlsplit(said["web"])
    assert parts.hostname and parts.port
    with pytest.raises(NO_CONNECTION):
        connect(trusting(platform), parts.hostname, parts.port)
