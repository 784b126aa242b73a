"""A partition of a queue against a plain list: nothing lost, nothing twice, everything in order."""

from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core.partitions import MAX_ITEMS, Partition

BIG = 1 << 30


def _partition(max_bytes: int = BIG) -> tuple[Partition[str], list[tuple[str, list[int]]]]:
    served: list[tuple[str, list[int]]] = []
    return Partition[str](lambda claim, items: served.append((claim, [seq for seq, _ in items])), max_bytes), served


def test_claims_are_served_in_turn() -> None:
    partition, served = _partition()
    partition.claim("first", 2)
    partition.claim("second", 2)
    partition.add([(1, 1)])
    partition.add([(2, 1), (3, 1), (4, 1)])
    assert served == [("first", [1]), ("second", [2, 3])]
    assert len(partition) == 1


def test_what_is_put_back_comes_first_again() -> None:
    partition, served = _partition()
    partition.add([(1, 1), (2, 1), (3, 1)])
    partition.claim("gone", 2)
    partition.put_back([(1, 1), (2, 1)])
    partition.claim("next", 3)
    assert served == [("gone", [1, 2]), ("next", [1, 2, 3])]


def test_what_is_put_back_goes_to_who_waits() -> None:
    partition, served = _partition()
    partition.add([(1, 1)])
    partition.claim("gone", 1)
    partition.claim("waiting", 1)
    partition.put_back([(1, 1)])
    assert served == [("gone", [1]), ("waiting", [1])]


def test_withdrawn_claims_get_nothing() -> None:
    partition, served = _partition()
    partition.claim("gone", 1)
    partition.claim("here", 1)
    partition.withdraw("gone")
    partition.add([(1, 1)])
    assert served == [("here", [1])]
    partition.claim("also gone", 1)
    assert partition.withdraw_all() == ["also gone"]
    assert not partition.has_claims


def test_one_answer_has_a_limit_of_bytes_but_at_least_one_item() -> None:
    partition, served = _partition(max_bytes=10)
    partition.add([(1, 20), (2, 6), (3, 4), (4, 1)])
    for name in "abc":
        partition.claim(name, 10)
    assert served == [("a", [1]), ("b", [2, 3]), ("c", [4])]


def test_what_was_cleared_stays_away() -> None:
    partition, served = _partition()
    partition.add([(1, 1), (2, 1)])
    partition.claim("gone", 1)
    partition.clear(up_to=3)
    partition.add([(3, 1), (4, 1)])  # 3 was on its way to the disk
    partition.put_back([(1, 1)])
    partition.claim("next", 5)
    assert served == [("gone", [1]), ("next", [4])]


def test_clearing_the_free_spares_what_is_on_its_way() -> None:
    partition, served = _partition()
    partition.add([(1, 1), (2, 1)])
    assert partition.clear_free() == 2
    partition.add([(3, 1)])
    partition.claim("next", 5)
    assert served == [("next", [3])]


def test_room_counts_what_is_on_its_way() -> None:
    partition, _ = _partition()
    partition.add((seq, 1) for seq in range(1, MAX_ITEMS - 1))
    partition.arriving = 1
    assert partition.has_room(1)
    assert not partition.has_room(2)


def test_looking_does_not_take() -> None:
    partition, _ = _partition()
    partition.add([(1, 5), (2, 5), (3, 5), (4, 5)])
    assert partition.after(1, limit=2, max_bytes=BIG) == [2, 3]
    assert partition.after(0, limit=9, max_bytes=10) == [1, 2]
    assert partition.after(0, limit=9, max_bytes=1) == [1]
    assert partition.after(4, limit=9, max_bytes=BIG) == []
    assert len(partition) == 4


@given(st.lists(st.tuples(st.sampled_from(["add", "claim", "put_back"]), st.integers(1, 4))))
def test_each_item_is_in_one_place(steps: list[tuple[str, int]]) -> None:
    partition, served = _partition()
    next_seq, next_claim, waiting = 1, 0, []
    for action, count in steps:
        if action == "add":
            partition.add([(seq, 1) for seq in range(next_seq, next_seq + count)])
            next_seq += count
        elif action == "claim":
            waiting.append(str(next_claim))
            partition.claim(str(next_claim), count)
            next_claim += 1
        elif served:
            _, items = served.pop()
            partition.put_back([(seq, 1) for seq in items])
        free = partition.after(0, limit=10**6, max_bytes=BIG)
        held = [seq for _, items in served for seq in items]
        assert sorted(free + held) == list(range(1, next_seq))
        assert not (free and partition.has_claims), "nobody waits while an item is free"
        assert free == sorted(free)
