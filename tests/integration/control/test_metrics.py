"""What the server counts, and that the page of metrics names all of it."""

from pathlib import Path

from heart import FakeNode, Heart, beat

METRICS = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_every_metric_of_the_server_is_documented_and_counts(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        await heart.call(function_id, key="done")
        [[(input_id, _)]] = node.delivered()
        await node.answer(task, input_id)
        await heart.call(function_id, key="running")
        await heart.call(function_id, key="waiting")
        families = {family.name: family for family in heart.server.overview.collect()}
        page = METRICS.read_text()
        assert [name for name in families if f"`{name}`" not in page] == []
        values = {name: family.samples[0].value for name, family in families.items() if family.samples}
        assert values["pilotlight_inputs_accepted"] == 3
        assert values["pilotlight_inputs_finished"] == 1
        assert values["pilotlight_inputs_unfinished"] == 2
        assert values["pilotlight_inputs_waiting"] == 1
        assert values["pilotlight_nodes"] == 1
        assert 'pilotlight_containers{state="ready"} 1.0' in heart.server.overview.metrics()

    beat(tmp_path, scenario)
