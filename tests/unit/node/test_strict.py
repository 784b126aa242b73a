"""Strict isolation, as far as it can be judged without gVisor: what it is asked to make, and what it is not asked."""

from pathlib import Path

import pytest

from pilotlight.core import errors
from pilotlight.core.containers import Bind, ContainerSpec, Hook
from pilotlight.node import bundle, kernel_shares, strict
from pilotlight.node.rootfs import IdMap


def config() -> dict:
    return bundle.config(
        bundle.Bundle("ta-1", Path("/root-fs"), ("true",), {}, "/", bundle.User(), IdMap(), sysctls={"net.x": "1"})
    )


def test_a_strict_bundle_keeps_namespaces_masks_and_rights() -> None:
    ordinary, made = config(), strict.document(config())
    assert made["linux"]["namespaces"] == ordinary["linux"]["namespaces"]
    assert made["linux"]["uidMappings"] == ordinary["linux"]["uidMappings"]
    assert made["process"] == ordinary["process"]
    assert "seccomp" not in made["linux"] and "sysctl" not in made["linux"]
    assert "seccomp" in ordinary["linux"], "the bundle of others is left as it was"


def test_builds_are_ordinary() -> None:
    assert strict.is_meant(ContainerSpec("ta-1", (), ("true",)))
    assert not strict.is_meant(ContainerSpec("build-1", (), ("true",), upper=Path("/layer")))


@pytest.mark.parametrize(
    "spec",
    [
        ContainerSpec("ta-1", (), ("true",), gpus=("GPU-1",)),
        ContainerSpec("ta-1", (), ("true",), hooks=(Hook("createContainer", "/bin/true", ()),)),
        ContainerSpec("ta-1", (), ("true",), binds=(Bind(Path("/dev/null"), "/dev/x", is_device=True),)),
    ],
)
def test_what_needs_a_device_is_refused(spec: ContainerSpec) -> None:
    with pytest.raises(errors.InvalidInput, match="--isolation strict"):
        strict.refuse(spec)


def test_without_the_program_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "apt-get install runsc" in strict.missing()


def test_no_handler_of_cores_is_started_on_the_machine() -> None:
    limits = {entry["type"]: entry["hard"] for entry in config()["process"]["rlimits"]}
    assert limits["RLIMIT_CORE"] == kernel_shares.NO_CORE_BYTES == 1


def test_containers_together_never_have_all_process_numbers() -> None:
    assert 0 < kernel_shares.processes_together() < int(Path("/proc/sys/kernel/pid_max").read_text())
