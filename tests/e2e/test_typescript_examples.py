"""The programs of examples/typescript against a platform, each as its README says."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping

import pytest
from conftest import Finished, Platform, Program
from support.node_programs import REPOSITORY, node_command, node_environment, run_checks

pytestmark = pytest.mark.e2e

EXAMPLE = REPOSITORY / "examples" / "typescript"
DEADLINE_S = 240.0


@pytest.fixture(scope="module")
def addresses(platform: Platform) -> Iterator[Mapping[str, str]]:
    """The example is deployed; the addresses of its endpoints, as the command line printed them."""
    said = platform.modal("deploy", str(EXAMPLE / "app.py"), deadline_s=300).out.replace("\n", "")
    found = {name: re.search(rf"https?://[\w.-]*-{name}\.[\w.:-]+", said) for name in ("analysis", "report", "progress")}
    assert all(found.values()), said
    yield {f"{name.upper()}_URL": address[0] for name, address in found.items() if address}
    platform.modal("app", "stop", "--yes", "typescript-example")


def start(platform: Platform, program: str, *arguments: str, **variables: str) -> Finished:
    environment = node_environment({**platform.environment, **variables})
    return Program(node_command(EXAMPLE / "src" / f"{program}.ts", *arguments), environment, DEADLINE_S).end()


@pytest.mark.usefixtures("addresses")
def test_a_function_by_its_name(platform: Platform) -> None:
    finished = start(platform, "call-function", "to be or whatever")
    assert finished.out == "4 words, the longest is whatever\n" and not finished.code, finished.text


@pytest.mark.usefixtures("addresses")
def test_a_spawned_call_is_collected_by_another_process(platform: Platform) -> None:
    call_id = start(platform, "spawn-and-collect").out.strip()
    assert call_id.startswith("fc-")
    finished = start(platform, "spawn-and-collect", call_id)
    assert "result: { pages: 10, bytes: 10240 }" in finished.out and "its log: page 10 of 10" in finished.out, finished.text


def test_a_web_endpoint_by_fetch(platform: Platform, addresses: Mapping[str, str]) -> None:
    finished = start(platform, "fetch-endpoint", **addresses)
    assert finished.out == "4 words, the longest is remarkable\n" and not finished.code, finished.text


def test_the_npm_client_knows_the_address(platform: Platform, addresses: Mapping[str, str]) -> None:
    for result in run_checks("web", {**platform.environment, **addresses}):
        assert result["error"] is None, result["error"]


def test_a_web_endpoint_with_a_proxy_token(platform: Platform, addresses: Mapping[str, str]) -> None:
    token = json.loads(platform.modal("workspace", "proxy-tokens", "create", "--json").out)
    credentials = {"PROXY_TOKEN_ID": token["Modal-Key"], "PROXY_TOKEN_SECRET": token["Modal-Secret"]}
    finished = start(platform, "fetch-protected", **addresses, **credentials)
    assert "report: { month: '2026-11', calls: 1234 }" in finished.out, finished.text
    wrong = start(platform, "fetch-protected", **addresses, **credentials | {"PROXY_TOKEN_SECRET": "ws-wrong"})
    assert wrong.code == 1 and "answered with 401" in wrong.err and "Make a new one" in wrong.err, wrong.text


def test_events_as_they_happen(platform: Platform, addresses: Mapping[str, str]) -> None:
    finished = start(platform, "stream-events", **addresses)
    steps = "".join(f'step: {{"step": {number}, "of": 5}}\n' for number in range(1, 6))
    assert finished.out == f"{steps}done\n" and not finished.code, finished.text


def test_they_type_check() -> None:
    compiler = node_command(EXAMPLE / "node_modules" / "typescript" / "bin" / "tsc", "--noEmit")
    checked = subprocess.run(compiler, cwd=EXAMPLE, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert checked.returncode == 0, checked.stdout
