"""What an operator sees of containers that were killed for not being isolated."""

from pathlib import Path

from heart import FakeNode, Heart, beat

from pilotlight.wire import platform_pb2


def test_a_container_that_was_not_isolated_shows_in_status_and_metrics(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        await FakeNode(heart).connect()
        assert heart.server.overview.document()["refused"] == []
        event = platform_pb2.ContainerRefused(container_id="ta-1", faults=["no filter", "no map"], at_ns=5 * 10**9)
        heart.server.refusals.add("node-1", event)
        shown = {"container": "ta-1", "node_name": "node-1", "refused_at": 5.0, "why": "no filter; no map"}
        assert heart.server.overview.document()["refused"] == [shown]
        assert "\npilotlight_containers_refused_total 1.0\n" in heart.server.overview.metrics()

    beat(tmp_path, scenario)
