"""What comes in on one listener is counted over all its connections, and given back."""

import pytest
from grpclib import GRPCError, Status

from pilotlight.wire.bulk import Underway


def test_what_is_more_than_it_may_hold_is_refused_and_takes_nothing() -> None:
    underway = Underway(100)
    with underway.take(60):
        with pytest.raises(GRPCError) as refused, underway.take(41):
            pass
        assert refused.value.status is Status.RESOURCE_EXHAUSTED
        with underway.take(40):
            pass
    with underway.take(100):
        pass


def test_a_message_that_breaks_off_is_given_back() -> None:
    underway = Underway(100)
    with pytest.raises(ConnectionError), underway.take(100):
        raise ConnectionError
    with underway.take(100):
        pass
