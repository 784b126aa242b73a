"""The choice of a network slot."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from pilotlight.config import Settings
from pilotlight.core.errors import OverLimit
from pilotlight.supervisor.slots import SLOTS, choose, parse_routes

SETTINGS = Settings(state=Path("/nowhere"))


def networks(*texts: str) -> list[IPv4Network]:
    return [IPv4Network(text) for text in texts]


def test_lowest_free_slot_first() -> None:
    assert choose(SETTINGS, None, [], []) == 0
    assert choose(SETTINGS, None, [], [0, 1, 3]) == 2


def test_kept_slot_is_used_again_while_it_is_free() -> None:
    assert choose(SETTINGS, 7, [], [0]) == 7
    assert choose(SETTINGS, 7, [], [7]) == 0
    assert choose(SETTINGS, 7, networks("10.135.0.0/16"), []) == 0


@pytest.mark.parametrize("route", ["10.128.0.0/16", "10.128.4.0/24", "169.254.10.1/32"])
def test_a_slot_that_the_machine_routes_is_skipped(route: str) -> None:
    assert choose(SETTINGS, 0, networks(route), []) == 1


def test_a_broader_route_makes_slots_second_choice_only() -> None:
    assert choose(SETTINGS, None, networks("10.128.0.0/10"), []) == 64
    assert choose(SETTINGS, None, networks("10.0.0.0/8"), [0]) == 1
    assert choose(SETTINGS, None, networks("169.254.0.0/16"), []) == 0


def test_no_slot_left_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(OverLimit, match="PILOTLIGHT_NETWORK_SLOT"):
        choose(SETTINGS, None, [], range(SLOTS))


def test_routes_are_read_from_the_kernels_table() -> None:
    table = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "pl-1\t0000800A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    )
    assert parse_routes(table, "pl-1") == networks("192.0.2.0/24")
    assert parse_routes(table, "pl-2") == networks("192.0.2.0/24", "10.128.0.0/16")
