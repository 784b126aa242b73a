"""What a container of a function asks of a node, in the words of placement."""

from dataclasses import replace

from modal_proto import api_pb2

from pilotlight.control.functions import FunctionRecord
from pilotlight.core.gpus import wish
from pilotlight.core.placement import Need

DEFAULT_MILLI_CPU = 125
DEFAULT_MEMORY_MIB = 128
REGION, CLOUD, PREEMPTIBLE = "region", "cloud", "preemptible"


def need_of(resources: api_pb2.Resources) -> Need:
    """What placement accounts for: the request, or upstream's default."""
    gpu = wish(resources.gpu_config.gpu_type, resources.gpu_config.count)
    return Need(resources.milli_cpu or DEFAULT_MILLI_CPU, resources.memory_mb or DEFAULT_MEMORY_MIB, gpu)


def needs_of(function: FunctionRecord) -> tuple[Need, ...]:
    """All that a function can run on, what it would rather have first; never empty."""
    labels = labels_of(function.definition)
    needs = (need_of(resources) for resources in (function.definition.resources, *function.alternatives))
    return tuple(replace(need, labels=labels) if labels else need for need in needs)


def labels_of(function: api_pb2.Function) -> dict[str, frozenset[str]]:
    """Where a function wants to run, as labels of nodes: `region=`, `cloud=`, `nonpreemptible=`."""
    placement = function.scheduler_placement
    labels: dict[str, frozenset[str]] = {}
    if regions := frozenset(region.lower() for region in placement.regions if region):
        labels[REGION] = regions
    if (cloud := function.cloud_provider_str.lower()) not in ("", "auto"):
        labels[CLOUD] = frozenset({cloud})
    if placement.nonpreemptible:
        labels[PREEMPTIBLE] = frozenset({"false"})
    return labels
