"""Specifications as vendors' tools write them, and what we make of them."""

import json
from pathlib import Path

import pytest

from pilotlight.core.containers import Bind, Hook
from pilotlight.core.errors import InvalidInput
from pilotlight.node.cdi import Specs, parse

# In the shape in which `nvidia-ctk cdi generate` writes it, for a machine with two GPUs.
YAML = """
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
    - path: /dev/dri/card1
      hostPath: /dev/dri/card7
    hooks:
    - hookName: createContainer
      path: /usr/bin/nvidia-cdi-hook
      args: [nvidia-cdi-hook, create-symlinks, --link, "../card1::/dev/dri/by-path/pci-0000:01:00.0-card"]
- name: GPU-2
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia1
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  deviceNodes:
  - path: /dev/nvidiactl
    permissions: r
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
    args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib/x86_64-linux-gnu]
    env: [NVIDIA_CTK_DEBUG=false]
    timeout: 5
  mounts:
  - hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15
    containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15
    options: [ro, nosuid, nodev, bind]
"""
CONTROL = Bind(Path("/dev/nvidiactl"), "/dev/nvidiactl", read_only=True, is_device=True)
LIBRARY = "/usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15"


def written(directory: Path, name: str, text: str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(text)
    return directory


def test_a_device_has_what_is_its_own_and_what_is_common(tmp_path: Path) -> None:
    edits = Specs([written(tmp_path / "a", "nvidia.yaml", YAML)]).edits([("GPU-1", "0")])
    assert edits is not None
    assert edits.env == {"NVIDIA_VISIBLE_DEVICES": "void"}
    assert edits.binds == (
        CONTROL,
        Bind(Path(LIBRARY), LIBRARY, read_only=True),
        Bind(Path("/dev/nvidia0"), "/dev/nvidia0", read_only=False, is_device=True),
        Bind(Path("/dev/dri/card7"), "/dev/dri/card1", read_only=False, is_device=True),
    )
    assert edits.hooks[0] == Hook(
        "createContainer",
        "/usr/bin/nvidia-cdi-hook",
        ("nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib/x86_64-linux-gnu"),
        ("NVIDIA_CTK_DEBUG=false",),
        5,
    )
    assert edits.hooks[1].args[1] == "create-symlinks"


def test_two_devices_share_what_is_common(tmp_path: Path) -> None:
    edits = Specs([written(tmp_path / "a", "nvidia.yaml", YAML)]).edits([("GPU-1", "0"), ("GPU-2", "1")])
    assert edits is not None
    devices = [bind.target for bind in edits.binds if bind.is_device]
    assert devices == ["/dev/nvidiactl", "/dev/nvidia0", "/dev/dri/card1", "/dev/nvidia1"]
    assert len(edits.hooks) == 2


def test_a_device_that_no_file_names_has_no_edits(tmp_path: Path) -> None:
    specs = Specs([written(tmp_path / "a", "nvidia.yaml", YAML), tmp_path / "missing"])
    assert specs.edits([("GPU-1", "0"), ("GPU-3", "2")]) is None


def test_what_is_made_at_run_time_wins_and_changes_are_seen(tmp_path: Path) -> None:
    static, dynamic = written(tmp_path / "a", "nvidia.yaml", YAML), tmp_path / "b"
    specs = Specs([static, dynamic])
    assert specs.edits([("0",)]) != specs.edits([("GPU-2",)])
    document = {"cdiVersion": "0.3.0", "kind": "nvidia.com/gpu", "devices": [{"name": "0", "containerEdits": {"env": ["A=1=2"]}}]}
    written(dynamic, "nvidia.json", json.dumps(document))
    edits = specs.edits([("0",)])
    assert edits is not None and edits.env == {"A": "1=2"} and not edits.binds


def test_files_of_other_vendors_are_left_alone_even_broken_ones(tmp_path: Path) -> None:
    directory = written(tmp_path / "a", "nvidia.yaml", YAML)
    written(directory, "other.yaml", "kind: example.com/nic\ndevices:\n- name: '0'\n  containerEdits: {}\n")
    written(directory, "broken.json", "{")
    written(directory, "README", "nothing")
    specs = Specs([directory])
    assert specs.edits([("0",)]) is not None
    with pytest.raises(InvalidInput, match=r"broken\.json"):
        specs.edits([("GPU-3",)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devices: []", "'kind' is missing"),
        ("kind: nvidia.com/gpu\ndevices:\n- containerEdits: {}", "'name' is missing"),
        ("kind: a: b", "mapping values"),
        ("just text", "can't be understood"),
        (
            "kind: nvidia.com/gpu\ncontainerEdits:\n  hooks:\n  - {hookName: someday, path: /bin/true}",
            "'someday', which no OCI runtime knows",
        ),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_fault(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=r"/etc/cdi/nvidia\.yaml") as refused:
        parse(text, Path("/etc/cdi/nvidia.yaml"))
    assert said in str(refused.value)
