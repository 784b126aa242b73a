"""The npm client and a platform that speaks TLS, with a certificate of an authority of one's own."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from conftest import _environment, _free_address, _pilotlight
from support.certificates import Authority
from support.node_programs import run_checks

pytestmark = pytest.mark.e2e


@pytest.fixture
def variables() -> Iterator[Mapping[str, str]]:
    if os.geteuid() != 0 or not shutil.which("crun"):
        pytest.skip("needs root and crun")
    directory = Path(tempfile.mkdtemp(prefix="pilotlight-e2e-"))
    authority = Authority()
    (directory / "root.pem").write_bytes(authority.root)
    authority.issue(directory / "chain.pem", directory / "key.pem", "localhost", "*.localhost", "127.0.0.1")
    state = directory / "state"
    certificate = ("--tls-cert", str(directory / "chain.pem"), "--tls-key", str(directory / "key.pem"))
    try:
        _pilotlight("up", "--detach", "--state", str(state), "--api", _free_address(), "--web", _free_address(), *certificate)
        try:
            yield {**_environment(state), "NODE_EXTRA_CA_CERTS": str(directory / "root.pem")}
        finally:
            _pilotlight("down", "--state", str(state))
    finally:
        shutil.rmtree(directory)


def test_node_trusts_what_it_is_told_to(variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)  # names all that gRPC trusts, where it is set
    trusted = {name: value for name, value in variables.items() if name != "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"}
    for result in run_checks("transport", trusted):
        assert result["error"] is None, result["error"]
    untrusting = {**trusted, "NODE_EXTRA_CA_CERTS": ""}
    assert all("certificate" in str(result["error"]) for result in run_checks("transport", untrusting, "checkTheApi"))
