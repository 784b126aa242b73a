from pilotlight.control import replies
from pilotlight.control.replies import RecentReplies


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_repeated_request_finds_its_answer_for_a_while() -> None:
    clock = Clock()
    recent: RecentReplies[int] = RecentReplies(clock)
    recent.keep("key", 1)
    recent.keep("key", 2)
    assert recent.get("key") == 1
    assert recent.get("other") is None
    clock.now = replies.REPLY_TTL_S
    assert recent.get("key") is None


def test_requests_without_a_key_are_not_kept() -> None:
    recent: RecentReplies[int] = RecentReplies(Clock())
    recent.keep("", 1)
    assert recent.get("") is None


def test_the_oldest_go_first() -> None:
    recent: RecentReplies[int] = RecentReplies(Clock())
    half = replies.MAX_REPLIES_BYTES // 2
    for number in range(3):
        recent.keep(str(number), number, half)
    assert [recent.get(str(number)) for number in range(3)] == [None, 1, 2]
    for number in range(replies.MAX_REPLIES + 1):
        recent.keep(f"many {number}", number)
    assert recent.get("2") is None
    assert recent.get(f"many {replies.MAX_REPLIES}") == replies.MAX_REPLIES
