"""What a container gets of the GPUs that it was given."""

from pathlib import Path

import pytest
from support.scripted_nvml import Card, ScriptedNvml

from pilotlight.config import Settings
from pilotlight.core.containers import ContainerSpec, Hook
from pilotlight.core.errors import WrongState
from pilotlight.node.cdi import Specs
from pilotlight.node.gpus import Gpus
from pilotlight.node.nvml import discover

LIBRARY = ScriptedNvml([Card("GPU-1", "NVIDIA L4", 23034), Card("GPU-2", "NVIDIA L4", 23034)])
SPEC = "{kind: nvidia.com/gpu, devices: [{name: GPU-2, containerEdits: {deviceNodes: [{path: /dev/nvidia1}]}}]}"


def container(*gpus: str, **env: str) -> ContainerSpec:
    return ContainerSpec("ta-1", (), ("true",), env={"NVIDIA_VISIBLE_DEVICES": "all", **env}, gpus=gpus)


def found(directory: Path, hook: str = "") -> Gpus:
    return Gpus(discover(LIBRARY), specs=Specs([directory]), hook=hook)


def test_by_a_specification_whatever_the_image_says(tmp_path: Path) -> None:
    (tmp_path / "nvidia.yaml").write_text(SPEC)
    given = found(tmp_path, hook="/usr/bin/hook").given(container("GPU-2"))
    assert given.env == {
        "CUDA_VISIBLE_DEVICES": "GPU-2",
        "NVIDIA_VISIBLE_DEVICES": "void",
        "MODAL_GPU_TYPE": "L4",
        "MODAL_GPU_COUNT": "1",
    }
    assert [bind.target for bind in given.binds] == ["/dev/nvidia1"] and not given.hooks


def test_by_the_hook_where_no_specification_names_it(tmp_path: Path) -> None:
    given = found(tmp_path, hook="/usr/bin/hook").given(container("GPU-1", "GPU-2", NVIDIA_DRIVER_CAPABILITIES="compute"))
    assert given.hooks == (Hook("prestart", "/usr/bin/hook", ("nvidia-container-runtime-hook", "prestart")),)
    assert given.env["NVIDIA_VISIBLE_DEVICES"] == given.env["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert given.env["NVIDIA_DRIVER_CAPABILITIES"] == "compute" and given.env["MODAL_GPU_COUNT"] == "2"


def test_without_either_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WrongState, match=r"GPU-1.*nvidia-ctk cdi generate"):
        found(tmp_path).given(container("GPU-1"))


def test_a_gpu_that_is_not_here_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WrongState, match="no GPU GPU-9"):
        found(tmp_path).given(container("GPU-9"))


def test_who_gets_none_is_left_alone(tmp_path: Path) -> None:
    assert found(tmp_path).given(container()) == container()


def test_declared_ones_are_the_same_at_each_start_and_have_no_devices(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path, gpus="a10g:2,H100", gpu_share="A10G=4")
    gpus, again = Gpus.open(settings, "no-1"), Gpus.open(settings, "no-1")
    assert [(gpu.kind, gpu.shares) for gpu in gpus.told()] == [("A10G", 4), ("A10G", 4), ("H100", 1)]
    assert gpus.told() == again.told()
    uuids = [gpu.uuid for gpu in gpus.told()]
    assert len(set(uuids)) == 3 and all(uuid.startswith("GPU-") for uuid in uuids)
    assert not set(uuids) & {gpu.uuid for gpu in Gpus.open(settings, "no-2").told()}
    given = gpus.given(container(*uuids[:2]))
    assert given.env["CUDA_VISIBLE_DEVICES"] == given.env["NVIDIA_VISIBLE_DEVICES"] == ",".join(uuids[:2])
    assert not given.binds and not given.hooks


def test_an_inventory_of_nothing_hides_what_is_there(tmp_path: Path) -> None:
    assert Gpus.open(Settings(state=tmp_path, gpus="none"), "no-1", LIBRARY).told() == []
    assert len(Gpus.open(Settings(state=tmp_path, gpu_share="L4=2"), "no-1", LIBRARY).told()) == 2


def test_a_failure_is_told_once_and_remembered(tmp_path: Path) -> None:
    gpus = found(tmp_path)
    assert gpus.fail("GPU-1", "Xid 79") and not gpus.fail("GPU-1", "Xid 79") and not gpus.fail("GPU-9", "Xid 79")
    assert [gpu.problem for gpu in gpus.told()] == ["Xid 79", ""]
