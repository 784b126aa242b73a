"""Processes of the platform are killed outright while programs are under way: these go on, nothing is lost or doubled.

The server (during a map, a remote call, a generator, spawned calls), the node agent (its containers die with it; their inputs
finish after its restart), the edge (during transfers of blobs).
"""

import re

import pytest
from conftest import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_the_server_dies_twice_during_a_map(platform: Platform) -> None:
    program = platform.start("restarts.py", "map")
    for progress in ("results so far: 50", "results so far: 200"):
        program.until(progress)
        platform.kill("server")
    assert "all is well" in program.end().out, program.text


def test_the_server_dies_during_a_call_that_runs_on(platform: Platform) -> None:
    kill = platform.aim("server")
    program = platform.start("restarts.py", "remote")
    program.until("it has begun")
    kill()
    assert "begun 1 times" in program.end().out, program.text


def test_the_server_dies_during_a_generator(platform: Platform) -> None:
    kill = platform.aim("server")
    program = platform.start("restarts.py", "generator")
    program.until("yielded 20")
    kill()
    assert "all is well" in program.end().out, program.text


def test_the_server_dies_with_spawned_inputs_waiting(platform: Platform) -> None:
    kill = platform.aim("server")
    program = platform.start("restarts.py", "spawned")
    program.until("all are spawned")
    kill()
    assert "all is well" in program.end().out, program.text


def test_the_server_dies_while_a_container_prints(platform: Platform) -> None:
    """No line comes twice or out of turn, and none is missing."""
    kill = platform.aim("server")
    program = platform.start("restarts.py", "output")
    program.until("line 050")
    kill()
    program.end()
    numbers = [int(number) for number in re.findall(r"line (\d+) of the container", program.text)]
    assert numbers == list(range(200)), numbers


def test_the_node_agent_dies_during_a_call(platform: Platform) -> None:
    kill = platform.aim("node")
    program = platform.start("restarts.py", "remote")
    program.until("it has begun")
    kill()
    assert "begun 2 times" in program.end().out, program.text


def test_the_node_agent_dies_during_a_map(platform: Platform) -> None:
    program = platform.start("restarts.py", "map")
    program.until("results so far: 50")
    platform.kill("node")
    assert "all is well" in program.end().out, program.text


def test_the_edge_dies_during_transfers(platform: Platform) -> None:
    program = platform.start("restarts.py", "blob")
    program.until("transferred 0")
    platform.kill("edge")
    program.until("transferred 2")
    platform.kill("edge")
    assert "all is well" in program.end().out, program.text
