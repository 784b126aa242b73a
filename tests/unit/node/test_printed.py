"""The last words of a container."""

from pilotlight.node.printed import TAIL_BYTES, TAIL_LINES, Tail


def test_only_the_last_lines_are_kept() -> None:
    tail = Tail()
    for number in range(100):
        tail.add(f"line {number}\n".encode())
    assert tail.lines() == [f"line {number}\n" for number in range(100 - TAIL_LINES, 100)]


def test_a_flood_and_a_line_without_end_stay_small() -> None:
    tail = Tail()
    for _ in range(1000):
        tail.add(b"x" * 65_536)
    assert sum(map(len, tail.lines())) == TAIL_BYTES
    assert tail._size_bytes <= 2 * TAIL_BYTES  # pyright: ignore[reportPrivateUsage]


def test_many_small_pieces_make_whole_lines_and_broken_text_stays_readable() -> None:
    tail = Tail()
    for piece in (b"he", b"llo\n", b"\xff\xfe\n", b"end"):
        tail.add(piece)
    assert tail.lines() == ["hello\n", "��\n", "end"]
