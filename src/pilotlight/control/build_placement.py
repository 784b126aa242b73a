"""Where an image is built, and with which GPUs."""

from pilotlight.control.gpus import Gpus
from pilotlight.control.nodes import Nodes, NodeSession
from pilotlight.core import errors
from pilotlight.core.gpus import GpuWish
from pilotlight.core.placement import Need, NodeView, Placed, Unplaced, place
from pilotlight.wire import platform_pb2

NO_NODE = "no node is connected; `pilotlight status` shows why, `pilotlight logs node` has its last words"


def place_build(nodes: Nodes, image_id: str, wish: GpuWish | None) -> NodeSession | Unplaced:
    """A node for a build, whose GPUs it holds from now on; Unplaced while all are busy, or none is there: agents are restarted.

    Raises Busy where all nodes are drained, and WrongState where no wait could help.
    """
    if not nodes.all():
        return Unplaced(NO_NODE)
    if wish is None:
        return nodes.any()
    if (holding := nodes.gpus.held_by(image_id)) is not None and (node := nodes.get(holding.node_id)) is not None:
        return node  # the node builds it already, and had it through a restart of ours
    nodes.any()
    placed = place([_view(nodes.gpus, node, node.node_id in nodes.cordoned) for node in nodes.all()], Need(0, 0, wish))
    if isinstance(placed, Placed) and (chosen := nodes.get(placed.node_id)) is not None:
        nodes.gpus.take(image_id, placed.node_id, placed.gpu_kind, wish.count)
        return chosen
    assert isinstance(placed, Unplaced)
    if placed.never:
        raise errors.WrongState(f"The image can't be built here: it {placed.why}.")
    return placed


def add_gpus(gpus: Gpus, command: platform_pb2.StartBuild) -> None:
    """Tell a build which GPUs it has."""
    if (holding := gpus.held_by(command.build_id)) is not None:
        command.gpu_uuids.extend(holding.uuids)
        command.gpu_kind = gpus.kind_of(holding.node_id, holding.uuids)


def _view(gpus: Gpus, node: NodeSession, is_cordoned: bool) -> NodeView:
    totals, free, failed = gpus.totals(node.node_id), gpus.free(node.node_id), gpus.failed(node.node_id)
    return NodeView(
        node.node_id, node.milli_cpu, node.memory_mib, gpus=totals, free_gpus=free, failed_gpus=failed, cordoned=is_cordoned
    )
