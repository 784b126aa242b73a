"""Doctor's judgement of GPUs that we do not have."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.scripted_nvml import Card, ScriptedNvml

from pilotlight.cli.doctor_gpus import judge
from pilotlight.cli.machine_gpus import GpuFacts, gather_gpus
from pilotlight.config import Settings
from pilotlight.node import nvml
from pilotlight.node.cdi import Specs

GOOD = GpuFacts(cards=2, driver="550.54.15", found="2×A10G", toolkit="/usr/bin/nvidia-ctk")


def said(facts: GpuFacts) -> list[tuple[str, str]]:
    return [(finding.level, finding.message) for finding in judge(facts)]


def test_a_machine_with_all_it_takes_has_nothing_to_mend() -> None:
    assert said(GOOD) == [("ok", "2×A10G, driver 550.54.15"), ("ok", "it names all GPUs, and all that it names is there")]
    assert [level for level, _ in said(GpuFacts())] == [level for level, _ in said(GpuFacts(declared="A10G:2"))] == ["ok"]


@pytest.mark.parametrize(
    ("change", "message", "mend"),
    [
        ({"driver": "", "found": ""}, "driver is not loaded", "nvidia-driver"),
        ({"found": ""}, "reports no GPU: none", "libnvidia-ml1"),
        (
            {"found": "", "driver_problem": "Driver/library version mismatch"},
            "no GPU (Driver/library version mismatch)",
            "nvidia-smi",
        ),
        ({"unusable": ("1 (GPU is lost)",)}, "do not answer: 1 (GPU is lost)", "nvidia-smi"),
        ({"unnamed": ("GPU-1",)}, "none names GPU-1", "nvidia-ctk cdi generate"),
        ({"unnamed": ("GPU-1",), "toolkit": ""}, "none names GPU-1", "nvidia-container-toolkit"),
        ({"missing_paths": ("/usr/lib/libcuda.so.535",)}, "libcuda.so.535 is not there", "nvidia-ctk cdi generate"),
        ({"broken_specs": ("/etc/cdi/a.yaml is broken",)}, "a.yaml is broken", "nvidia-ctk cdi generate"),
        ({"closed_devices": ("/dev/nvidia0",)}, "/dev/nvidia0", "chmod 666 /dev/nvidia0"),
    ],
)
def test_what_is_missing_is_named_with_what_mends_it(change: dict[str, object], message: str, mend: str) -> None:
    [finding] = [finding for finding in judge(replace(GOOD, **change)) if finding.level != "ok"]  # type: ignore[arg-type]
    assert finding.level == "warning" and message in finding.message and mend in finding.mend


def test_the_hook_is_enough() -> None:
    assert all(level == "ok" for level, _ in said(replace(GOOD, unnamed=("GPU-1",), hook="/usr/bin/hook")))


def test_the_facts_of_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = ScriptedNvml([Card(f"GPU-{number}", "NVIDIA A10", 23028, is_lost=number == 3) for number in (1, 2, 3)])
    monkeypatch.setattr(nvml, "load", lambda: (library, ""))
    closed = tmp_path / "closed"
    closed.touch(mode=0o600)
    devices = f"[{{path: {closed}}}, {{path: {tmp_path}/missing}}]"
    spec = f"{{kind: nvidia.com/gpu, devices: [{{name: '0', containerEdits: {{deviceNodes: {devices}}}}}]}}"
    (tmp_path / "nvidia.yaml").write_text(spec)
    (tmp_path / "broken.json").write_text("{")
    facts = gather_gpus(Settings(state=tmp_path / "state"), Specs([tmp_path]))
    assert facts.unusable == ("2 (15)",)
    assert (facts.found, facts.unnamed) == ("2×A10G", ("GPU-2",))
    assert facts.closed_devices == (str(closed),) and facts.missing_paths == (f"{tmp_path}/missing",)
    assert len(facts.broken_specs) == 1 and "broken.json" in facts.broken_specs[0]
    assert gather_gpus(Settings(state=tmp_path / "state", gpus="T4:1"), Specs([])).found == ""
