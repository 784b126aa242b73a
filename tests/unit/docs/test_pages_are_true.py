"""The reference pages say what the code does, and leave nothing out."""

import asyncio
import importlib
import inspect
import pkgutil
import re
import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from modal_proto import api_pb2, task_command_router_pb2

import pilotlight.rpc
from pilotlight.config import Settings
from pilotlight.edge.metrics import EdgeMetrics
from pilotlight.node.gateway import Gateway
from pilotlight.node.volumes import VolumeDirectories
from pilotlight.rpc.features import feature_of

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
UNITS = {
    **{"": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40},
    **{"s": 1, "minutes": 60, "hour": 3600, "hours": 3600, "days": 86_400},
}
ONLY_IN_1_1 = {"ContainerFilesystemExecGetOutput", "NotebookKernelPublishResults"}


def rows(page: str, heading: str = "") -> list[list[str]]:
    """The cells of the rows of all tables of a page, or of those below the one heading that holds these words."""
    text = (DOCS / page).read_text()
    if heading:
        [text] = [section for section in text.split("\n## ") if heading in section.partition("\n")[0]]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def states(heading: str) -> dict[str, tuple[str, str]]:
    """RPC → (state, word) of one table."""
    listed = [(cells[0], (cells[1], cells[2])) for cells in rows("compatibility.md", heading)[2:]]
    assert len(listed) == len(dict(listed)), "an RPC is listed twice"
    return dict(listed)


def served_by_the_server() -> set[str]:
    found: set[str] = set()
    for module in pkgutil.iter_modules(pilotlight.rpc.__path__):
        loaded = importlib.import_module(f"pilotlight.rpc.{module.name}")
        for name, kind in inspect.getmembers(loaded, inspect.isclass):
            if name.endswith("Handlers"):
                found |= {member for member, _ in inspect.getmembers(kind, callable) if member[0].isupper()}
    return found


def served_by_the_node() -> set[str]:
    async def look() -> set[str]:
        relay = SimpleNamespace(handler=lambda task_id, path: None)
        gateway = Gateway(Settings(), relay, SimpleNamespace(task_id="ta-1"), VolumeDirectories(Path("/nowhere")))  # type: ignore[arg-type]
        methods = methods_of(api_pb2, "ModalClient")
        return {name for name in methods if gateway._find_handler(f"/modal.client.ModalClient/{name}") is not None}

    return asyncio.run(look())


def methods_of(module: Any, service: str) -> set[str]:
    return {method.name for method in module.DESCRIPTOR.services_by_name[service].methods}


def test_every_rpc_is_listed_as_it_is() -> None:
    listed = states("ModalClient")
    assert set(listed) == methods_of(api_pb2, "ModalClient")
    assert {state for state, _ in listed.values()} <= {"works", "partly", "not yet"}
    built = served_by_the_server() | served_by_the_node()
    assert {name for name, (state, _) in listed.items() if state != "not yet"} == built
    assert [name for name, (state, word) in listed.items() if state == "partly" and not word] == []


def test_what_is_not_built_has_a_name_that_people_know() -> None:
    assert [
        name for name, (state, _) in states("ModalClient").items() if state == "not yet" and "missing" in feature_of(name)
    ] == []


def test_the_counts_of_rpcs_are_right() -> None:
    found = Counter(state for state, _ in states("ModalClient").values())
    said = f"{found.total()} methods: {found['works']} work, {found['partly']} work partly, {found['not yet']} do not yet."
    assert said in (DOCS / "compatibility.md").read_text()


def test_what_the_newest_client_lacks_or_asks_of_containers_is_listed_too() -> None:
    assert {name: state for name, (state, _) in states("client 1.1 has").items()} == dict.fromkeys(ONLY_IN_1_1, "not yet")
    router = states("TaskCommandRouter")
    assert set(router) == methods_of(task_command_router_pb2, "TaskCommandRouter")
    assert {state for state, _ in router.values()} == {"not yet"}


def test_every_setting_is_documented_with_its_default() -> None:
    listed = {cells[0].strip("`"): cells[1:] for cells in rows("settings.md") if cells[0].startswith("`")}
    assert set(listed) == set(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        variable, default, meaning = listed[name]
        assert variable == f"`PILOTLIGHT_{name.upper()}`"
        assert meaning
        if field.default_factory is None:
            assert default == (f"`{field.default}`" if field.default not in ("", None) else "empty"), name


def number_of(value: str) -> float:
    found = re.fullmatch(r"([\d,.]+) ?(\w*)", value)
    assert found, value
    return float(found[1].replace(",", "")) * UNITS[found[2]]


LIMITS = [(cells[2].strip("`"), cells[1]) for cells in rows("limits.md") if cells[-1].startswith("`")]


@pytest.mark.parametrize(("constant", "value"), LIMITS)
def test_limits_are_what_the_code_says(constant: str, value: str) -> None:
    module, _, name = constant.rpartition(".")
    assert getattr(importlib.import_module(f"pilotlight.{module}"), name) == pytest.approx(number_of(value))


def test_metrics_of_the_edge_are_documented() -> None:
    listed = {cells[0].strip("`") for cells in rows("metrics.md")}
    assert {family.name for family in EdgeMetrics().registry.collect()} <= listed


def test_diagrams_are_those_of_the_tables() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    assert "stateDiagram" in page
    generator = runpy.run_path(str(DOCS / "generate"))
    assert generator["renewed"](page) == page, "run `.venv/bin/python docs/generate`"


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *DOCS.rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
