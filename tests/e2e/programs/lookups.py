"""Another app, in another process, that uses what is deployed: from here and from its own containers."""

import modal

app = modal.App("lookups")


@app.function()
def from_a_container(version: str) -> list[object]:
    which = modal.Function.from_name("deployed", "which")
    return [
        which.remote(words="seen"),
        list(which.map([0.0] * 3)),
        modal.Cls.from_name("deployed", "Shelf")(label="c").put.remote("d"),
        list(modal.Function.from_name("deployed", "numbers").remote_gen(3)),
    ]


def check_functions() -> None:
    which = modal.Function.from_name("deployed", "which")
    assert which.remote() == "version 1"
    assert which.spawn(words="spawned").get() == "spawned 1"
    assert list(modal.Function.from_name("deployed", "numbers").remote_gen(4)) == [0, 1, 2, 3]
    stats = which.get_current_stats()
    assert stats.backlog == 0 and stats.num_total_runners >= 1, stats


check_functions.last = True  # type: ignore[attr-defined] - by itself: other checks call what it counts, too


def check_classes() -> None:
    shelf = modal.Cls.from_name("deployed", "Shelf")
    assert shelf(label="a").put.remote("x") == ["a", "x"]
    assert shelf().put.remote("y") == ["none", "y"]
    assert shelf.with_options(max_containers=1)(label="b").put.remote("z") == ["b", "z"]


def check_from_a_container() -> None:
    assert from_a_container.remote("1") == ["seen 1", ["version 1"] * 3, ["c", "d"], [0, 1, 2]]


def check_what_is_not_there() -> None:
    for missing in (modal.Function.from_name("deployed", "nothing").remote, modal.Cls.from_name("nowhere", "Nothing")):
        try:
            missing()
            modal.Cls.from_name("nowhere", "Nothing")().put.remote("x")
        except modal.exception.NotFoundError as error:
            assert "nothing" in str(error).lower() or "nowhere" in str(error), error
        else:
            raise AssertionError("what nobody deployed was found")
