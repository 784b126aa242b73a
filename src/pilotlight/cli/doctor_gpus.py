"""Doctor's judgement of a machine's GPUs. None of it stops the platform: what is wrong here, only containers with GPUs feel."""

from collections.abc import Iterator

from pilotlight.cli.findings import Finding
from pilotlight.cli.machine_gpus import GpuFacts

SPEC = "/etc/cdi/nvidia.yaml"
GENERATE = f"nvidia-ctk cdi generate --output={SPEC}"
INSTALL_TOOLKIT = "install the package nvidia-container-toolkit from NVIDIA's repository: docs/gpus.md has the commands"


def judge(facts: GpuFacts) -> Iterator[Finding]:
    """The findings about GPUs, their driver first."""
    if facts.declared:
        yield Finding("GPUs", "ok", f"declared: {facts.declared}; containers get no devices")
    elif not facts.cards and not facts.driver and not facts.found:
        yield Finding("GPUs", "ok", "none of NVIDIA's; `pilotlight up --gpus KIND:N` declares some, to try programs out")
    elif not facts.driver and not facts.found:
        yield Finding(
            "GPUs",
            "warning",
            f"{facts.cards} of NVIDIA's, but their driver is not loaded: none is offered",
            "apt-get install -y nvidia-driver firmware-misc-nonfree && reboot",
        )
    elif not facts.found:
        yield Finding(
            "GPUs",
            "warning",
            f"the driver {facts.driver} is loaded, but its library libnvidia-ml.so.1 reports no GPU"
            f"{f' ({facts.driver_problem})' if facts.driver_problem else ''}: none is offered",
            "apt-get install -y libnvidia-ml1 && nvidia-smi",
        )
    else:
        yield Finding("GPUs", "ok", facts.found + (f", driver {facts.driver}" if facts.driver else ""))
        yield from _way_into_containers(facts)
    if facts.unusable:
        yield Finding("GPUs", "warning", f"these do not answer: {', '.join(facts.unusable)}", "nvidia-smi --query && reboot")


def _way_into_containers(facts: GpuFacts) -> Iterator[Finding]:
    generate = GENERATE if facts.toolkit else INSTALL_TOOLKIT
    for problem in facts.broken_specs:
        yield Finding("CDI specification", "warning", problem, generate)
    if facts.unnamed and facts.hook:
        yield Finding("CDI specification", "ok", f"none for {', '.join(facts.unnamed)}; {facts.hook} shows them to containers")
    elif facts.unnamed:
        yield Finding(
            "CDI specification",
            "warning",
            f"none names {', '.join(facts.unnamed)}: containers with these GPUs can't start",
            generate,
        )
    elif facts.missing_paths:
        yield Finding(
            "CDI specification",
            "warning",
            f"it is older than the driver: {', '.join(facts.missing_paths[:3])} "
            f"{'is' if len(facts.missing_paths) == 1 else 'are'} not there, so containers with GPUs can't start",
            generate,
        )
    else:
        yield Finding("CDI specification", "ok", "it names all GPUs, and all that it names is there")
    if facts.closed_devices:
        yield Finding(
            "GPU devices",
            "warning",
            f"not everybody may open {', '.join(facts.closed_devices)}, and containers are not this machine's root",
            f"chmod 666 {' '.join(facts.closed_devices)}  # to last: options nvidia NVreg_DeviceFileMode=0666 in /etc/modprobe.d",
        )
