"""Packets in, packets out: no byte may bring the forwarder down."""

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.node import dns

ADDRESS = IPv4Address("169.254.52.1")


def query(name: str, kind: int = 1, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", 0xBEEF, flags, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def test_names_below_localhost_are_the_platform() -> None:
    packet = query("Web.LocalHost")
    answer = dns.local_answer(packet, dns.read_question(packet), ADDRESS)
    assert answer is not None
    assert answer[:12] == struct.pack("!HHHHHH", 0xBEEF, 0x8180, 1, 1, 0, 0)
    assert answer.startswith(packet[12:], 12)
    assert answer.endswith(ADDRESS.packed)


def test_localhost_itself_is_the_loopback_and_has_no_ipv6() -> None:
    packet = query("localhost")
    answer = dns.local_answer(packet, dns.read_question(packet), ADDRESS)
    assert answer is not None
    assert answer.endswith(b"\x7f\0\0\1")
    packet = query("a.localhost", kind=28)
    answer = dns.local_answer(packet, dns.read_question(packet), ADDRESS)
    assert answer is not None
    assert answer[6:8] == b"\0\0"  # no answers, and no error


def test_other_names_are_not_ours_and_failure_is_told() -> None:
    packet = query("notlocalhost")
    question = dns.read_question(packet)
    assert dns.local_answer(packet, question, ADDRESS) is None
    assert dns.server_failure(packet + b"extra", question)[2:4] == b"\x81\x82"


@pytest.mark.parametrize("packet", [b"", b"x" * 11, query("a", flags=0x8000), query("a")[:-1], query("a")[:13], query("a" * 64)])
def test_malformed_packets_are_told_apart(packet: bytes) -> None:
    with pytest.raises(dns.MalformedQueryError):
        dns.read_question(packet)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_question_or_malformed(packet: bytes) -> None:
    try:
        question = dns.read_question(packet)
    except dns.MalformedQueryError:
        return
    assert dns.server_failure(packet, question)


def test_resolv_conf() -> None:
    text = "# note\nsearch a.example\nnameserver 10.0.0.1 # first\nnameserver fe80::1%eth0\nnameserver nonsense\n"
    assert dns.parse_resolv_conf(text + "search b.example c.example\n") == dns.ResolvConf(
        ("10.0.0.1", "fe80::1%eth0"), ("b.example", "c.example")
    )
    assert dns.parse_resolv_conf("").nameservers == ("127.0.0.1",)
