"""Which templates there are, with templates that are made of nothing."""

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import structlog.testing

from pilotlight.core.containers import ContainerSpec, Recipe
from pilotlight.core.errors import InvalidInput, NotIsolated
from pilotlight.node.quiet import Quiet
from pilotlight.node.templates.bursts import BURSTS_KEPT_S, MOST_SPARES
from pilotlight.node.templates.channel import MESSAGE_BYTES, LoadFault, TemplateFault
from pilotlight.node.templates.keeper import (
    MAX_FAULTS,
    MAX_FORKS,
    MAX_IDLE_S,
    MOST_POSTPONED,
    RETRY_S,
    SPARE_BYTES,
    SPARES_AT_A_TIME,
    Keeper,
)
from pilotlight.node.templates.learned import MOST_REJECTED

T = TypeVar("T")
ARGS = ("python", "-m", "modal._container_entrypoint")
MIB = 1 << 20


class Made:
    """Stands in for what runs on threads; notes what it is asked for."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.memory_mib = 30
        self.touched_mib = 0  # by each spare
        self.broken = ""
        self.failed: dict[str, str] = {}  # what each template says of packages
        self.postponed: dict[str, str] = {}
        self.may_begin = asyncio.Event()
        self.may_begin.set()
        self.may_fork = asyncio.Event()
        self.may_fork.set()

    async def template(self, recipe: Recipe, number: int) -> Any:
        self.said.append(f"template {number}")
        await self.may_begin.wait()
        if self.broken == "template":
            raise TemplateFault("It ended.")
        if self.broken == "imports" and recipe.modules:
            raise LoadFault("They ended it.")
        template = SimpleNamespace(
            recipe=recipe,
            number=number,
            is_alive=True,
            loaded=SimpleNamespace(read=frozenset({"MODAL_PROFILE"}), took_ms=1.0, failed=self.failed, postponed=self.postponed),
            started=SimpleNamespace(container_id=f"template-{number}"),
            pages=SimpleNamespace(own_bytes=self.touched_mib * MIB),
        )
        template.memory_bytes = lambda: self.memory_mib * MIB
        return template

    async def spare(self, template: Any) -> Any:
        self.said.append(f"spare of {template.number}")
        await self.may_fork.wait()
        if self.broken == "spare":
            raise TemplateFault("It ended.")
        return SimpleNamespace(template=template, is_alive=True)

    async def discard(self, spare: Any) -> None:
        self.said.append(f"discard of {spare.template.number}")

    async def end(self, template: Any) -> None:
        self.said.append(f"end {template.number}")

    def hurry(self) -> None:
        self.said.append("hurry")

    async def close(self, template: Any) -> None:
        self.said.append(f"close {template.number}")


class Bench:
    """A keeper, its maker and its clock."""

    def __init__(self, budget_mib: int = 100, memory: Path | None = None) -> None:
        self.made = Made()
        self.now = 1000.0
        self.quiet = Quiet()
        self.keeper = Keeper(
            self.made,  # type: ignore[arg-type]
            budget_bytes=budget_mib * MIB,
            quiet=self.quiet,
            memory=memory,
            clock=lambda: self.now,
        )

    async def rest(self) -> None:
        """Until nothing is under way."""
        await self.keeper.settled()

    async def ready(self, spec: ContainerSpec) -> None:
        assert await self.keeper.take(spec) is None  # the first never waits
        await self.rest()


def spec(image: str = "one", **env: str) -> ContainerSpec:
    recipe = Recipe((Path(image),), ARGS, {"PATH": "/bin"})
    return ContainerSpec("ta-1", (Path(image),), ARGS, {**recipe.env, **env}, recipe=recipe)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def test_the_first_start_begins_a_template_and_does_not_wait_for_it() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        assert bench.made.said == ["template 1", "spare of 1"]
        spare = await bench.keeper.take(spec())
        assert spare is not None
        bench.keeper.began(spare)
        await bench.rest()
        assert bench.made.said == ["template 1", "spare of 1", "spare of 1"]

    run(check())


def test_a_burst_forks_more_than_there_are_spares() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        assert None not in await asyncio.gather(*(bench.keeper.take(spec()) for _ in range(10)))

    run(check())


def test_after_a_burst_as_many_wait_for_the_next_for_a_while() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        for spare in [await bench.keeper.take(spec()) for _ in range(20)]:
            assert spare is not None
            bench.keeper.began(spare)
        await bench.rest()
        before = len(bench.made.said)
        assert None not in [await bench.keeper.take(spec()) for _ in range(MOST_SPARES)]
        assert len(bench.made.said) == before  # nobody had to be forked
        bench.now += BURSTS_KEPT_S + 1
        spare = await bench.keeper.take(spec())
        assert spare is not None
        bench.keeper.began(spare)
        await bench.rest()
        assert bench.made.said[before:] == ["spare of 1"] * 2

    run(check())


def test_few_spares_are_made_at_a_time_and_who_needs_one_does_not_wait_for_them() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        for spare in [await bench.keeper.take(spec()) for _ in range(MOST_SPARES)]:
            assert spare is not None
            bench.keeper.began(spare)
        bench.made.may_fork.clear()
        before = len(bench.made.said)
        for _ in range(10):
            await asyncio.sleep(0)
        assert bench.made.said[before:] == ["spare of 1"] * SPARES_AT_A_TIME
        taken = asyncio.ensure_future(bench.keeper.take(spec()))
        for _ in range(10):
            await asyncio.sleep(0)
        assert bench.made.said[before:] == ["spare of 1"] * (SPARES_AT_A_TIME + 1)
        bench.made.may_fork.set()
        assert await taken is not None
        await bench.rest()

    run(check())


def test_spares_that_are_no_longer_wanted_go_and_nothing_stays_to_be_done() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        for _ in range(2):
            for spare in [await bench.keeper.take(spec()) for _ in range(MOST_SPARES)]:
                assert spare is not None
                bench.keeper.began(spare)
            await bench.rest()
        [kept] = bench.keeper._kept.values()
        assert len(kept.spares) == MOST_SPARES and kept.trimming is not None
        pending = kept.trimming
        bench.keeper._trim(kept)  # as if its time had come, but another burst was since
        assert len(kept.spares) == MOST_SPARES and kept.trimming is not None
        pending.cancel()
        bench.now += BURSTS_KEPT_S + 1
        pending = kept.trimming
        bench.keeper._trim(kept)
        pending.cancel()
        assert len(kept.spares) == 1 and kept.trimming is None
        bench.keeper._trim_later(kept)
        assert kept.trimming is None
        for spare in [await bench.keeper.take(spec()) for _ in range(MOST_SPARES)]:
            assert spare is not None
            bench.keeper.began(spare)
        await bench.rest()
        pending = kept.trimming
        assert pending is not None
        await bench.keeper.close()
        assert pending.cancelled()

    run(check())


def test_a_template_that_grows_is_counted_as_it_is_now() -> None:
    async def check() -> None:
        bench = Bench(budget_mib=100)
        for image in ("one", "two"):
            bench.now += 1
            await bench.ready(spec(image))
        assert not any(said.startswith("close") for said in bench.made.said)
        bench.made.memory_mib = 60
        spare = await bench.keeper.take(spec("two"))
        assert spare is not None
        bench.keeper.began(spare)
        await bench.rest()
        assert "close 1" in bench.made.said and "close 2" not in bench.made.said
        assert [state.memory_bytes for state in bench.keeper.states()] == [60 * MIB]

    run(check())


def test_spares_for_bursts_take_no_more_memory_than_there_is() -> None:
    async def check() -> None:
        bench = Bench(budget_mib=100)
        bench.made.touched_mib = 20 - (SPARE_BYTES // MIB)
        await bench.ready(spec())
        for spare in [await bench.keeper.take(spec()) for _ in range(MOST_SPARES)]:
            assert spare is not None
            bench.keeper.began(spare)
        before = len(bench.made.said)
        await bench.rest()
        assert bench.made.said[before:] == ["spare of 1"] * 3  # (100 - 30) / 20

    run(check())


def test_spares_for_bursts_go_before_a_template_does() -> None:
    async def check() -> None:
        bench = Bench(budget_mib=100)
        for image in ("other", "one"):
            bench.now += 1
            await bench.ready(spec(image))
        for spare in [await bench.keeper.take(spec("one")) for _ in range(MOST_SPARES)]:
            assert spare is not None
            bench.keeper.began(spare)
        await bench.rest()
        _, kept = bench.keeper._kept.values()
        assert kept.template is not None and len(kept.spares) == MOST_SPARES
        kept.template.pages.own_bytes = 5 * MIB  # so much is known to be written by each by now
        spare = await bench.keeper.take(spec("one"))
        assert spare is not None
        bench.keeper.began(spare)
        await bench.rest()
        assert not any(said.startswith("close") for said in bench.made.said)
        assert len(kept.spares) == (100 - 2 * 30 - SPARE_BYTES // MIB) // (SPARE_BYTES // MIB + 5)

    run(check())


def test_no_spare_is_made_while_containers_begin() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        bench.quiet.begins("ta-1")
        spare = await bench.keeper.take(spec())
        assert spare is not None
        bench.keeper.began(spare)
        before = len(bench.made.said)
        await asyncio.sleep(0.05)
        assert len(bench.made.said) == before
        bench.quiet.has_begun("ta-1")
        await bench.rest()
        assert bench.made.said[before:] == ["spare of 1"]

    run(check())


def test_a_template_that_holds_its_container_back_is_ended_and_not_begun_anew() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        spare = await bench.keeper.take(spec())
        assert spare is not None
        bench.keeper.condemn(spare.template)
        await bench.rest()
        assert bench.made.said[-1] == "end 1"
        assert await bench.keeper.take(spec()) is None
        bench.keeper.condemn(spare.template)  # of another container, when it has ended
        await bench.rest()
        assert bench.made.said[-2:] == ["end 1", "end 1"]

    run(check())


def test_what_imports_have_read_keeps_a_container_from_being_forked() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        assert await bench.keeper.take(spec(MODAL_PROFILE="mine")) is None

    run(check())


def test_the_longest_unused_goes_when_memory_is_short() -> None:
    async def check() -> None:
        bench = Bench(budget_mib=70)
        for image in ("one", "two", "three"):
            bench.now += 1
            await bench.ready(spec(image))
        assert [said for said in bench.made.said if said.startswith("close")] == ["close 1"]

    run(check())


def test_an_ended_template_is_removed_with_its_last_container() -> None:
    async def check() -> None:
        bench = Bench(budget_mib=40)
        await bench.ready(spec("one"))
        spare = await bench.keeper.take(spec("one"))
        assert spare is not None
        bench.keeper.began(spare)
        await bench.ready(spec("two"))
        assert "end 1" in bench.made.said and "close 1" not in bench.made.said
        bench.keeper.released(spare)
        await bench.rest()
        assert bench.made.said[-1] == "close 1"

    run(check())


def test_one_that_can_not_be_made_is_tried_again_after_a_while() -> None:
    async def check() -> None:
        bench = Bench()
        bench.made.broken = "template"
        await bench.ready(spec())
        await bench.ready(spec())
        assert bench.made.said == ["template 1"]
        bench.now += RETRY_S
        await bench.ready(spec())
        bench.now += RETRY_S  # the pause has doubled
        await bench.ready(spec())
        assert bench.made.said == ["template 1", "template 2"]

    run(check())


def test_a_child_that_is_not_isolated_ends_its_template_at_once() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        spare = await bench.keeper.take(spec())
        assert spare is not None
        bench.keeper.failed(spare, NotIsolated("It has too many rights.", faults=("rights",)))
        await bench.rest()
        assert bench.made.said[-1] == "close 1"
        assert await bench.keeper.take(spec()) is None

    run(check())


def test_containers_that_no_way_could_start_are_not_held_against_it() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        for _ in range(2 * MAX_FAULTS):
            spare = await bench.keeper.take(spec())
            assert spare is not None
            bench.keeper.failed(spare, InvalidInput("It is given a volume where the image has files."))
            await bench.rest()
        assert "close 1" not in bench.made.said

    run(check())


def test_forks_that_fail_end_it_after_a_few() -> None:
    async def check() -> None:
        bench = Bench()
        bench.made.broken = "spare"
        await bench.ready(spec())
        for _ in range(MAX_FAULTS):
            assert await bench.keeper.take(spec()) is None
            await bench.rest()
        assert "close 1" in bench.made.said

    run(check())


def test_it_is_renewed_after_many_forks() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        for _ in range(MAX_FORKS):
            spare = await bench.keeper.take(spec())
            assert spare is not None
            bench.keeper.released(spare)
        bench.keeper.began(spare)
        await bench.rest()
        assert bench.made.said.index("template 2") < bench.made.said.index("close 1")
        assert await bench.keeper.take(spec()) is not None  # there was one all the time

    run(check())


def test_what_nobody_uses_goes_when_another_comes() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec("one"))
        bench.now += MAX_IDLE_S + 1
        await bench.ready(spec("two"))
        assert "close 1" in bench.made.said

    run(check())


def test_no_budget_no_templates() -> None:
    async def check() -> None:
        bench = Bench(budget_mib=0)
        await bench.ready(spec())
        assert bench.made.said == []
        recipe = spec().recipe
        assert recipe is not None
        assert not bench.keeper.learn(recipe, ["numpy"])

    run(check())


def test_templates_of_the_last_time_are_begun_with_the_agent(tmp_path: Path) -> None:
    async def check() -> None:
        (tmp_path / "image").mkdir()
        first = Bench(memory=tmp_path / "templates.json")
        await first.ready(spec(str(tmp_path / "image")))
        await first.keeper.close()
        second = Bench(memory=tmp_path / "templates.json")
        await second.keeper.open()
        await second.rest()
        assert second.made.said == ["template 1", "spare of 1"]

    run(check())


def test_that_they_can_not_be_remembered_is_said_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def check() -> None:
        bench = Bench(memory=tmp_path / "file" / "templates.json")
        with structlog.testing.capture_logs() as logs:
            await bench.ready(spec())
        assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["templates.not_remembered"]

    run(check())


def test_a_template_that_begins_while_all_are_closed_is_removed() -> None:
    async def check() -> None:
        bench = Bench()
        assert await bench.keeper.take(spec()) is None
        await bench.keeper.close()
        assert bench.made.said == ["hurry", "template 1", "close 1"]

    run(check())


@pytest.mark.parametrize("children", [0, 1])
def test_closing_leaves_nothing(children: int) -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        taken = [await bench.keeper.take(spec()) for _ in range(children)]
        for spare in taken:
            assert spare is not None
            bench.keeper.released(spare)
        await bench.keeper.close()
        assert bench.made.said.count("close 1") == 1
        assert await bench.keeper.take(spec()) is None

    run(check())


def test_what_containers_import_is_in_the_next_template() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        recipe = spec().recipe
        assert recipe is not None
        assert bench.keeper.learn(recipe, ["numpy", "numpy.linalg"])
        assert await bench.keeper.take(spec()) is not None  # nobody waits for it
        await bench.rest()
        spare = await bench.keeper.take(spec())
        assert spare is not None
        assert spare.template.recipe.modules == ("numpy", "numpy.linalg")
        assert not bench.keeper.learn(recipe, ["numpy"])

    run(check())


def test_more_modules_than_fit_into_a_message_are_not_learned() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        recipe = spec().recipe
        assert recipe is not None
        for part in range(10):
            bench.keeper.learn(recipe, [f"package{part}.a_module_of_it_number_{number}" for number in range(1000)])
        await bench.rest()
        spare = await bench.keeper.take(spec())
        assert spare is not None
        modules = spare.template.recipe.modules
        assert len(modules) > 1000
        assert len(json.dumps({"modules": modules})) < MESSAGE_BYTES
        assert not bench.keeper.learn(recipe, ["one.more"])

    run(check())


def test_what_is_learned_while_a_template_begins_is_in_the_one_after_it() -> None:
    async def check() -> None:
        bench = Bench()
        recipe = spec().recipe
        assert recipe is not None
        bench.made.may_begin.clear()
        assert await bench.keeper.take(spec()) is None
        await asyncio.sleep(0)
        assert bench.made.said == ["template 1"]
        assert bench.keeper.learn(recipe, ["numpy"])
        bench.made.may_begin.set()
        await bench.rest()
        spare = await bench.keeper.take(spec())
        assert spare is not None
        assert spare.template.recipe.modules == ("numpy",)

    run(check())


def test_a_template_that_cannot_import_them_goes_on_without() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        recipe = spec().recipe
        assert recipe is not None
        bench.made.broken = "imports"
        assert bench.keeper.learn(recipe, ["bad"])
        await bench.rest()
        spare = await bench.keeper.take(spec())
        assert spare is not None
        assert spare.template.recipe.modules == ()
        assert not bench.keeper.learn(recipe, ["bad"])

    run(check())


def test_a_template_that_fails_for_another_reason_imports_them_the_next_time() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        recipe = spec().recipe
        assert recipe is not None
        bench.made.broken = "template"
        assert bench.keeper.learn(recipe, ["numpy"])
        await bench.rest()
        bench.made.broken = ""
        bench.now += RETRY_S
        assert bench.keeper.learn(recipe, ["pandas"])
        await bench.rest()
        spare = await bench.keeper.take(spec())
        assert spare is not None
        assert spare.template.recipe.modules == ("numpy", "pandas")

    run(check())


def test_what_trials_reject_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    ours = spec(str(tmp_path / "image"))

    async def check() -> None:
        bench = Bench(memory=tmp_path / "templates.json")
        await bench.ready(ours)
        assert ours.recipe is not None
        bench.made.failed = {"threads": "keeps threads", "numpy.linalg": "is no package", "os": "was not asked"}
        assert bench.keeper.learn(ours.recipe, ["threads", "numpy", "threads.pool", "numpy.linalg"])
        await bench.rest()
        assert [said for said in bench.made.said if said.startswith("template")] == ["template 1", "template 2"]
        assert not bench.keeper.learn(ours.recipe, ["threads.pool", "threads.other"])
        await bench.keeper.close()
        again = Bench(memory=tmp_path / "templates.json")
        await again.keeper.open()
        await again.rest()
        spare = await again.keeper.take(ours)
        assert spare is not None
        assert spare.template.recipe.modules == ("numpy", "numpy.linalg")
        assert spare.template.recipe.rejected == ("threads",)
        assert not again.keeper.learn(ours.recipe, ["threads"])

    run(check())


def test_what_could_not_be_tried_is_tried_again_a_few_times() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        recipe = spec().recipe
        assert recipe is not None
        bench.made.postponed = {"slow": "it took too long", "os": "was not asked"}
        for number in range(MOST_POSTPONED):
            assert bench.keeper.learn(recipe, ["slow", f"package{number}"])
            await bench.rest()
            spare = await bench.keeper.take(spec())
            assert spare is not None
            bench.keeper.began(spare)
            assert "slow" in spare.template.recipe.modules
        assert bench.keeper.learn(recipe, ["another"])
        await bench.rest()
        spare = await bench.keeper.take(spec())
        assert spare is not None
        assert spare.template.recipe.rejected == ("slow",)
        assert spare.template.recipe.modules == ("package0", "package1", "package2", "another")

    run(check())


def test_of_an_image_of_which_too_much_was_rejected_nothing_is_learned() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        recipe = spec().recipe
        assert recipe is not None
        bench.made.failed = {f"package{number}": "keeps threads" for number in range(MOST_REJECTED + 1)}
        assert bench.keeper.learn(recipe, [*bench.made.failed, "good"])
        await bench.rest()
        assert not bench.keeper.learn(recipe, ["another"])
        [kept] = bench.keeper._kept.values()
        assert kept.recipe.modules == ("good",) and len(kept.recipe.rejected) == MOST_REJECTED

    run(check())


def test_one_that_should_take_another_s_place_is_tried_again_when_it_fails() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        recipe = spec().recipe
        assert recipe is not None
        bench.made.broken = "template"
        assert bench.keeper.learn(recipe, ["numpy"])
        await bench.rest()

        async def start() -> Any:
            spare = await bench.keeper.take(spec())
            assert spare is not None
            bench.keeper.began(spare)
            await bench.rest()
            return spare

        await start()
        assert "template 3" not in bench.made.said  # not at once
        bench.now += RETRY_S
        await start()
        assert "template 3" in bench.made.said
        bench.now += RETRY_S
        await start()
        assert "template 4" not in bench.made.said  # the pause has doubled, though forks go well
        bench.made.broken = ""
        bench.now += RETRY_S
        await start()
        assert (await start()).template.recipe.modules == ("numpy",)
        assert "template 5" not in bench.made.said

    run(check())


def test_a_crash_at_the_start_ends_imports_ahead() -> None:
    async def check() -> None:
        bench = Bench()
        await bench.ready(spec())
        recipe = spec().recipe
        assert recipe is not None
        bench.keeper.learn(recipe, ["bad"])
        await bench.rest()
        spare = await bench.keeper.take(spec())
        assert spare is not None
        bench.keeper.crashed(spare)
        await bench.ready(spec())
        other = await bench.keeper.take(spec())
        assert other is not None
        assert other.template.recipe.modules == ()

    run(check())


def expected(image: str) -> Recipe:
    recipe = spec(image).recipe
    assert recipe is not None
    return recipe


def test_what_is_expected_begins_one_after_another_and_is_there_for_the_first_start() -> None:
    async def check() -> None:
        bench = Bench(budget_mib=150)
        bench.made.may_begin.clear()
        bench.keeper.expect(expected("one"))
        bench.keeper.expect(expected("two"))
        bench.keeper.expect(expected("two"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert bench.made.said == ["template 1"]
        bench.made.may_begin.set()
        await bench.rest()
        assert sorted(bench.made.said) == ["spare of 1", "spare of 2", "template 1", "template 2"]
        assert await bench.keeper.take(spec("one")) is not None

    run(check())


def test_what_is_expected_drives_out_nothing() -> None:
    async def check() -> None:
        bench = Bench(budget_mib=80)
        for image in ("one", "two"):
            await bench.ready(spec(image))
        bench.keeper.expect(expected("three"))
        await bench.rest()
        assert "template 3" not in bench.made.said
        roomy = Bench(budget_mib=100)
        await roomy.ready(spec("one"))
        roomy.made.memory_mib = 75  # more than it was thought to be
        roomy.keeper.expect(expected("two"))
        await roomy.rest()
        assert "close 2" in roomy.made.said and "close 1" not in roomy.made.said
        roomy.made.memory_mib = 30
        assert await roomy.keeper.take(spec("two")) is None  # the first start begins one, whatever was expected
        await roomy.rest()
        assert await roomy.keeper.take(spec("two")) is not None

    run(check())


def test_what_was_only_expected_goes_first_and_is_remembered_last(tmp_path: Path) -> None:
    async def check() -> None:
        bench = Bench(budget_mib=100, memory=tmp_path / "templates.json")
        await bench.ready(spec("one"))
        bench.now += 1
        bench.keeper.expect(expected("two"))
        await bench.rest()
        assert [Path(*entry["layers"]).name for entry in json.loads((tmp_path / "templates.json").read_text())] == ["one", "two"]
        for image in ("three", "four"):
            bench.now += 1
            await bench.ready(spec(image))
        assert "close 2" in bench.made.said and "close 1" not in bench.made.said

    run(check())


def test_what_is_expected_twice_was_still_never_used() -> None:
    async def check() -> None:
        bench = Bench(budget_mib=100)
        for _ in range(2):
            bench.keeper.expect(expected("two"))
            await bench.rest()
            [kept] = bench.keeper._kept.values()
            assert kept.is_ahead
            bench.keeper._retire(kept)
            await bench.rest()

    run(check())


def test_where_there_are_no_templates_none_is_expected() -> None:
    async def check() -> None:
        bench = Bench(budget_mib=0)
        bench.keeper.expect(expected("one"))
        await bench.rest()
        assert bench.made.said == []

    run(check())
