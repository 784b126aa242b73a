"""Who tries wrong tokens has to wait; who works goes on."""

from pilotlight.core.sign_ins import MAX_ADDRESSES, MAX_FAILURES, WINDOW_S, SignIns


def test_an_address_with_too_many_failures_waits_until_they_are_old() -> None:
    subject = SignIns()
    for second in range(MAX_FAILURES):
        assert subject.wait_s("192.0.2.1", "ak-1", float(second)) == 0.0
        subject.failed("192.0.2.1", float(second))
    now = float(MAX_FAILURES)
    assert subject.wait_s("192.0.2.1", "ak-1", now) == WINDOW_S - now
    assert subject.wait_s("192.0.2.2", "ak-1", now) == 0.0
    assert subject.wait_s("192.0.2.1", "ak-1", WINDOW_S) == 0.0
    subject.failed("192.0.2.1", WINDOW_S)  # the oldest has gone, the rest still counts
    assert subject.wait_s("192.0.2.1", "ak-1", WINDOW_S + 0.5) == 0.5


def test_a_client_that_was_signed_in_is_not_concerned() -> None:
    subject = SignIns()
    subject.succeeded("192.0.2.1", "ak-good")
    for _ in range(2 * MAX_FAILURES):
        subject.failed("192.0.2.1", 0.0)
    assert subject.wait_s("192.0.2.1", "ak-good", 1.0) == 0.0
    assert subject.wait_s("192.0.2.1", "ak-other", 1.0) == WINDOW_S - 1.0


def test_many_addresses_take_only_so_much_memory() -> None:
    subject = SignIns()
    for number in range(MAX_ADDRESSES + 10):
        subject.failed(f"2001:db8::{number:x}", 0.0)
    assert len(subject._failures) == MAX_ADDRESSES
