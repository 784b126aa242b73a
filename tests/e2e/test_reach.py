"""The stock client on another machine: on an open network, by TLS with an authority of one's own, and behind Caddy."""

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from support.certificates import Authority, trusting
from support.laptop import SERVER, laptop

PROGRAM = Path(__file__).parent / "programs" / "reached.py"
BIN = Path(sys.executable).parent
LABEL = "main--reached-files-dev"
CADDYFILE = """
{{
    local_certs
    skip_install_trust
    admin off
    auto_https disable_redirects
    storage file_system {storage}
    default_bind {address}
}}

api.example.test {{
    reverse_proxy h2c://{api}
}}

web.example.test, *.web.example.test {{
    reverse_proxy {web}
}}
"""


def _pilotlight(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BIN / "pilotlight"), *arguments], capture_output=True, text=True, timeout=240, check=False)


class Site:
    """A state directory on which platforms run one after the other, so that images are built once."""

    def __init__(self, state: Path) -> None:
        self.state = state

    @contextlib.contextmanager
    def up(self, api: str, web: str, *flags: str) -> Iterator[dict[str, str]]:
        """Run a platform; variables for a client with its token."""
        flags = ("--detach", "--state", str(self.state), "--api", api, "--web", web, *flags)
        started = _pilotlight("up", *flags)
        assert started.returncode == 0, started.stderr
        try:
            lines = _pilotlight("env", "--state", str(self.state)).stdout.splitlines()
            exports = dict(line.removeprefix("export ").split("=", 1) for line in lines)
            yield {**exports, "MODAL_CONFIG_PATH": str(self.state / "no-profile.toml"), "COLUMNS": "200"}
        finally:
            assert _pilotlight("down", "--state", str(self.state)).returncode == 0


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    if os.geteuid() != 0 or not all(map(shutil.which, ("crun", "mmdebstrap", "nft", "ip"))):
        pytest.skip("needs root, crun, mmdebstrap, nft and ip")
    kept = os.environ.get("PILOTLIGHT_E2E_STATE")
    directory = Path(f"{kept}-reach" if kept else tempfile.mkdtemp(prefix="pilotlight-reach-"))
    site = Site(directory / "state")
    try:
        with site.up("127.0.0.1:0", "127.0.0.1:0") as variables:
            subprocess.run(
                [str(BIN / "modal"), "run", str(PROGRAM)],
                env={**os.environ, **variables},
                check=True,
                capture_output=True,
                timeout=600,
            )
        yield site
    finally:
        if not kept:
            shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _everywhere() -> tuple[int, int]:
    return _free_port(), _free_port()


def test_a_laptop_on_an_open_network_by_address_and_by_name(site: Site) -> None:
    api, web = _everywhere()
    flags = ("--insecure", "--domain", "web.lan")
    with laptop("server.lan", "web.lan", f"{LABEL}.web.lan") as other:
        with site.up(f"0.0.0.0:{api}", f"0.0.0.0:{web}", *flags) as variables:
            for host in (SERVER, "server.lan"):
                url = f"http://{host}:{api}"
                out = other.run(str(BIN / "modal"), "run", str(PROGRAM), environment={**variables, "MODAL_SERVER_URL": url})
                assert f"page http://{LABEL}.web.lan:{web} 200" in out, out


def _serial(port: int, root: bytes) -> int:
    context = ssl.create_default_context(cadata=root.decode())
    with (
        socket.create_connection((SERVER, port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=SERVER) as secure,
    ):
        return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"").serial_number


def test_a_laptop_by_tls_and_the_renewal_of_the_certificate(site: Site, tmp_path: Path) -> None:
    authority = Authority()
    chain, key, api, web = tmp_path / "chain.pem", tmp_path / "key.pem", *_everywhere()
    hosts = ("server.lan", "web.lan", "*.web.lan", SERVER)
    first = authority.issue(chain, key, *hosts)
    flags = ("--tls-cert", str(chain), "--tls-key", str(key), "--domain", "web.lan")
    with laptop("server.lan", "web.lan", f"{LABEL}.web.lan") as other:
        with site.up(f"0.0.0.0:{api}", f"0.0.0.0:{web}", *flags) as variables:
            assert variables["MODAL_SERVER_URL"] == f"https://server.lan:{api}"
            trust = trusting(tmp_path, authority.root)
            for host in ("server.lan", SERVER):
                told = {**variables, **trust, "MODAL_SERVER_URL": f"https://{host}:{api}"}
                out = other.run(str(BIN / "modal"), "run", str(PROGRAM), environment=told)
                assert f"page https://{LABEL}.web.lan:{web} 200" in out, out
            assert [_serial(port, authority.root) for port in (api, web)] == [first, first]
            second = authority.issue(chain, key, *hosts)
            assert [_serial(port, authority.root) for port in (api, web)] == [second, second]


def test_bad_tls_files_are_named_when_the_platform_starts(site: Site, tmp_path: Path) -> None:
    authority = Authority()
    chain, key, other = tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "other.pem"
    authority.issue(tmp_path / "other-chain.pem", other, "b.example")
    authority.issue(chain, key, "a.example")
    for flags, words in (
        (("--tls-cert", chain), "needs both"),
        (("--tls-cert", tmp_path / "none.pem", "--tls-key", key), "none.pem can't be read: No such file"),
        (("--tls-cert", key, "--tls-key", key), "has no PEM block of a certificate"),
        (("--tls-cert", chain, "--tls-key", other), "do not belong together"),
    ):
        refused = _pilotlight("up", "--detach", "--state", str(site.state), "--api", "127.0.0.1:0", *map(str, flags))
        assert refused.returncode != 0 and words in refused.stderr, refused.stderr


@pytest.mark.skipif(not shutil.which("caddy"), reason="needs caddy: apt-get install caddy")
def test_a_laptop_by_a_domain_behind_caddy(site: Site, tmp_path: Path) -> None:
    api, web = (f"127.0.0.1:{_free_port()}" for _ in range(2))
    config, storage = tmp_path / "Caddyfile", tmp_path / "caddy"
    config.write_text(CADDYFILE.format(storage=storage, address=SERVER, api=api, web=web))
    with laptop("api.example.test", "web.example.test", f"{LABEL}.web.example.test") as other:
        with site.up(api, web, "--domain", "web.example.test") as variables, _caddy(config):
            trust = trusting(tmp_path, (storage / "pki/authorities/local/root.crt").read_bytes())
            told = {**variables, **trust, "MODAL_SERVER_URL": "https://api.example.test"}
            out = other.run(str(BIN / "modal"), "run", str(PROGRAM), environment=told)
            assert f"page https://{LABEL}.web.example.test 200" in out, out


@contextlib.contextmanager
def _caddy(config: Path) -> Iterator[None]:
    """Caddy, once it serves."""
    command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HOME": str(config.parent)}) as process:
        try:
            assert process.stderr
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                if "serving initial configuration" in line:
                    break
            else:
                raise AssertionError("".join(lines))
            yield
        finally:
            process.terminate()
            process.communicate(timeout=20)
