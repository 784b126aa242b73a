"""Where deliveries may go, when they are tried again, and what they say."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core import webhooks
from pilotlight.core.errors import InvalidInput
from pilotlight.core.webhooks import Answer, CallEnd, EndedCall, Outcome, check_url, covers, delay_s, document, next_due, refusal

DAY_S = 24 * 3600.0


class TestAddresses:
    @pytest.mark.parametrize(
        "address",
        [
            *(
                "127.0.0.1",
                "127.9.9.9",
                "0.0.0.0",
                "0.1.2.3",
                "10.0.0.1",
                "10.128.0.7",
                "172.16.0.1",
                "172.31.255.255",
                "192.168.1.1",
            ),
            *("169.254.169.254", "169.254.10.1", "100.64.0.1", "100.127.255.254", "192.0.0.1", "192.0.2.1", "198.18.0.1"),
            *("198.51.100.7", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.88.99.1"),
            *("::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::7f00:1", "fe80::1", "fe80::1%eth0"),
            *(
                "fc00::1",
                "fd12:3456::1",
                "fec0::1",
                "ff02::1",
                "2001:db8::1",
                "2001::1",
                "2002:7f00:1::1",
                "2002:a00:1::",
                "3fff::1",
            ),
            *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "5f00::1", "4000::1", "not an address", ""),
        ],
    )
    def test_not_of_the_public_internet(self, address: str) -> None:
        assert refusal(address)

    @pytest.mark.parametrize(
        "address",
        [
            *("1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.167.0.1", "223.255.255.1"),
            *("2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"),
        ],
    )
    def test_public(self, address: str) -> None:
        assert refusal(address) == ""

    @given(st.ip_addresses(v=4))
    def test_an_address_inside_another_is_judged_the_same(self, address: object) -> None:
        assert bool(refusal(f"::ffff:{address}")) == bool(refusal(str(address)))

    def test_the_reason_is_named(self) -> None:
        assert refusal("127.0.0.1") == "a loopback address"
        assert refusal("169.254.169.254") == "a link-local address"
        assert "CGNAT" in refusal("100.64.0.1")


class TestUrls:
    @pytest.mark.parametrize("url", ["https://example.com/hook?a=b", "http://example.com:8080/", "https://[2606:4700::1111]/x"])
    def test_taken(self, url: str) -> None:
        assert check_url(url, allow_private=False) == url

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("ftp://example.com", "https://"),
            ("https://", "name a host"),
            ("example.com/hook", "https://"),
            ("https://user:secret@example.com/", "signature"),
            ("https://example.com/#part", "never sent"),
            ("https://example.com:99999/", "Port"),
            ("https://exa mple.com/", "space"),
            ("https://example.com/\r\nX: y", "space"),
            ("https://exämple.com/", "ASCII"),
            ("https://example.com/" + "a" * 3000, "2048"),
            (f"https://{'a' * 64}.com/", "63"),
            ("http://[::1/", "can't be"),
            ("http://127.1/", "four numbers"),
            ("http://2130706433/", "four numbers"),
            ("http://0x7f.0x1/", "four numbers"),
        ],
    )
    def test_refused_whatever_is_allowed(self, url: str, why: str) -> None:
        with pytest.raises(InvalidInput, match=why):
            check_url(url, allow_private=True)

    @pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://localhost/", "http://a.localhost/", "http://[fd00::1]/"])
    def test_private_ones_only_where_they_are_allowed(self, url: str) -> None:
        assert check_url(url, allow_private=True) == url
        with pytest.raises(InvalidInput, match="--webhook-allow-private"):
            check_url(url, allow_private=False)


class TestBackOff:
    @given(st.integers(1, 100), st.randoms(use_true_random=False))
    def test_delays_grow_to_a_limit_with_jitter(self, attempts: int, chance: random.Random) -> None:
        plain = min(5.0 * 3.0 ** min(attempts - 1, 20), 4 * 3600.0)
        assert 0.75 * plain <= delay_s(attempts, chance) <= 1.25 * plain

    def test_a_receiver_that_is_down_is_tried_for_a_day(self) -> None:
        chance, now, times = random.Random(1), 0.0, 0
        while (following := next_due(times + 1, now, DAY_S, Answer(500), chance)) is not None:
            assert following > now
            now, times = following, times + 1
        assert DAY_S - 1.25 * webhooks.LONGEST_DELAY_S < now <= DAY_S
        assert 11 <= times <= 16

    def test_a_receiver_may_ask_for_more_time_but_not_for_ever(self) -> None:
        chance = random.Random(1)
        assert next_due(1, 0.0, DAY_S, Answer(503, retry_after_s=600.0), chance) == 600.0
        assert next_due(1, 0.0, DAY_S, Answer(429, retry_after_s=1e9), chance) == 3600.0

    def test_gone_is_final(self) -> None:
        assert next_due(1, 0.0, DAY_S, Answer(410), random.Random(1)) is None

    @pytest.mark.parametrize(
        ("status", "accepted"), [(200, True), (204, True), (299, True), (0, False), (301, False), (400, False)]
    )
    def test_only_2xx_is_success(self, status: int, accepted: bool) -> None:
        assert Answer(status).accepted is accepted


class TestFunctions:
    @pytest.mark.parametrize(
        ("wanted", "tag", "method", "covered"),
        [
            ("", "f", "", True),
            ("f", "f", "", True),
            ("f", "g", "", False),
            ("Model", "Model.*", "run", True),
            ("Model.*", "Model.*", "run", True),
            ("Model.run", "Model.*", "run", True),
            ("Model.run", "Model.*", "", True),
            ("Model.run", "Model.*", "stop", False),
            ("Model", "Model2.*", "run", False),
            ("Mod", "Model.*", "", False),
        ],
    )
    def test_which_are_covered(self, wanted: str, tag: str, method: str, covered: bool) -> None:
        assert covers(wanted, tag, method) is covered


def ended(outcome: Outcome | None = None, **fields: object) -> EndedCall:
    known = {"call_id": "fc-1", "app_id": "ap-1", "app": "a", "environment": "main", "function": "f"}
    return EndedCall(**known, created_at=0.0, finished_at=1.5, outcome=outcome, **fields)  # type: ignore[arg-type]


class TestBody:
    def test_a_success(self) -> None:
        said = document(ended(Outcome("in-1", "success", started_at=1.0, result={"a": 1}, result_format="cbor")))
        assert said == {
            "type": "function_call.completed",
            "timestamp": "1970-01-01T00:00:01.500Z",
            "data": {
                "function_call_id": "fc-1",
                "kind": "single",
                "app": "a",
                "app_id": "ap-1",
                "environment": "main",
                "function": "f",
                "created_at": "1970-01-01T00:00:00.000Z",
                "finished_at": "1970-01-01T00:00:01.500Z",
                "input_id": "in-1",
                "status": "success",
                "started_at": "1970-01-01T00:00:01.000Z",
                "attempts": 1,
                "result": {"a": 1},
                "result_format": "cbor",
            },
        }

    def test_a_result_that_is_not_shown(self) -> None:
        data = document(ended(Outcome("in-1", "success", result_format="pickle", result_omitted="a pickle")))["data"]
        assert (data["result"], data["result_format"], data["result_omitted"]) == (None, "pickle", "a pickle")

    def test_a_failure_has_an_error_and_no_result(self) -> None:
        data = document(ended(Outcome("in-1", "failure", exception="ValueError('no')")))["data"]
        assert data["error"] == {"type": "ValueError", "message": "ValueError('no')"}
        assert "result" not in data
        assert webhooks.error_of("The input was cancelled.") == {"type": None, "message": "The input was cancelled."}
        assert len(webhooks.error_of("E(" + "x" * 10_000)["message"] or "") == webhooks.MAX_MESSAGE_CHARS

    def test_a_map_says_how_many_ended_how(self) -> None:
        data = document(ended(counts={"success": 3, "failure": 1}))["data"]
        assert (data["kind"], data["status"], data["inputs"]) == ("map", "failed", 4)
        assert data["inputs_by_status"] == {"success": 3, "failure": 1}

    @pytest.mark.parametrize(
        ("status", "event"),
        [
            ("success", CallEnd.COMPLETED),
            ("failure", CallEnd.FAILED),
            ("init_failure", CallEnd.FAILED),
            ("internal_failure", CallEnd.FAILED),
            ("timeout", CallEnd.TIMED_OUT),
            ("terminated", CallEnd.CANCELLED),
        ],
    )
    def test_events_of_single_calls(self, status: str, event: CallEnd) -> None:
        assert webhooks.event_of(ended(Outcome("in-1", status))) is event

    def test_events_of_maps(self) -> None:
        assert webhooks.event_of(ended(counts={"success": 2})) is CallEnd.COMPLETED
        assert webhooks.event_of(ended(counts={"success": 2, "timeout": 1})) is CallEnd.FAILED
        assert webhooks.event_of(ended(counts={"success": 2, "terminated": 1}, cancelled=True)) is CallEnd.CANCELLED
        assert webhooks.event_of(ended(counts={"success": 2}, cancelled=True)) is CallEnd.COMPLETED
