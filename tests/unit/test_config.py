"""What the supervisor and its processes agree on through the environment."""

import os
import socket

import pytest

from pilotlight import config


def test_listening_sockets_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    numbers = {"api": os.dup(pairs[0][0].fileno()), "inner": os.dup(pairs[1][0].fileno())}
    for number in numbers.values():
        os.set_inheritable(number, True)
    monkeypatch.setenv(config.LISTEN_FDS, config.process_environment(numbers, 9)[config.LISTEN_FDS])
    found = config.inherited_sockets()
    try:
        assert {name: found[name].fileno() for name in found} == numbers
        assert not any(os.get_inheritable(number) for number in numbers.values())
    finally:
        for each in [*found.values(), *pairs[0], *pairs[1]]:
            each.close()


def test_without_a_supervisor_there_are_no_sockets_and_nobody_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(config.LISTEN_FDS, raising=False)
    monkeypatch.delenv(config.READY_FD, raising=False)
    assert config.inherited_sockets() == {}
    config.ready()


def test_ready_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setenv(config.READY_FD, str(writing))
    config.ready()
    config.ready()
    with os.fdopen(reading) as said:
        assert said.read() == "ready\n"


def test_processes_do_not_inherit_what_is_meant_for_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-secret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    environment = config.process_environment({"api": 3, "inner": 4}, 5)
    assert environment[config.LISTEN_FDS] == "api=3,inner=4"
    assert environment[config.READY_FD] == "5"
    assert environment["LANG"] == "C.UTF-8"
    assert "MODAL_TOKEN_SECRET" not in environment
