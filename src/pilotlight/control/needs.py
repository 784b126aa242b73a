"""What a container of a function asks of a node, in the words of placement."""

from modal_proto import api_pb2

from pilotlight.control.functions import FunctionRecord
from pilotlight.core.gpus import wish
from pilotlight.core.placement import Need

DEFAULT_MILLI_CPU = 125
DEFAULT_MEMORY_MIB = 128


def need_of(resources: api_pb2.Resources) -> Need:
    """What placement accounts for: the request, or upstream's default."""
    gpu = wish(resources.gpu_config.gpu_type, resources.gpu_config.count)
    return Need(resources.milli_cpu or DEFAULT_MILLI_CPU, resources.memory_mb or DEFAULT_MEMORY_MIB, gpu)


def needs_of(function: FunctionRecord) -> tuple[Need, ...]:
    """All that a function can run on, what it would rather have first; never empty."""
    return tuple(need_of(resources) for resources in (function.definition.resources, *function.alternatives))
