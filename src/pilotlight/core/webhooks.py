"""Completion webhooks: when a delivery is tried again, where to it may go, and what it says.

Signatures, headers and the shape of the body follow the Standard Webhooks specification.
"""

import ipaddress
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pilotlight.core.errors import InvalidInput

GIVE_UP_AFTER_S = 24 * 3600.0  # since the end of the call, or since the delivery was asked for anew
FIRST_DELAY_S, DELAY_FACTOR, LONGEST_DELAY_S = 5.0, 3.0, 4 * 3600.0
JITTER = 0.25  # of a delay, up or down
LONGEST_RETRY_AFTER_S = 3600.0  # that a receiver may ask for
MAX_URL_CHARS = 2048
MAX_MESSAGE_CHARS = 4096  # of the error of a call
_GONE = 410
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]*)\(")

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_SPECIAL = tuple(
    (ipaddress.ip_network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "an unspecified address"),
        ("100.64.0.0/10", "an address of a provider's own network (CGNAT)"),
        ("192.88.99.0/24", "a relay's address"),
        ("fc00::/7", "a private address"),
        ("fec0::/10", "a private address"),
        ("2001::/23", "a special-purpose address"),
        ("3fff::/20", "a documentation address"),
    )
)


class DeliveryState(StrEnum):
    PENDING = "pending"  # to be tried when its time comes
    DELIVERED = "delivered"  # the receiver answered 2xx: never sent again by itself
    FAILED = "failed"  # given up


class CallEnd(StrEnum):
    """How a call ended: what its event is called."""

    COMPLETED = "function_call.completed"
    FAILED = "function_call.failed"
    TIMED_OUT = "function_call.timed_out"
    CANCELLED = "function_call.cancelled"


# ---- when ----


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt. `status` 0: no answer at all; `problem` then says why, else what the receiver wrote."""

    status: int
    problem: str = ""
    retry_after_s: float = 0.0

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        """Whether the receiver wants to hear no more, ever."""
        return self.status == _GONE


def delay_s(attempts: int, chance: random.Random) -> float:
    """Seconds to wait after so many failed attempts (from 1): 5 s, 15 s, 45 s … 4 h, each a quarter more or less."""
    plain = min(FIRST_DELAY_S * DELAY_FACTOR ** min(attempts - 1, 20), LONGEST_DELAY_S)
    return plain * (1 + JITTER * (2 * chance.random() - 1))


def next_due(attempts: int, now: float, give_up_at: float, answer: Answer, chance: random.Random) -> float | None:
    """When to try again after an attempt that failed; None: not any more."""
    if answer.is_gone:
        return None
    wait_s = max(delay_s(attempts, chance), min(answer.retry_after_s, LONGEST_RETRY_AFTER_S))
    return now + wait_s if now + wait_s <= give_up_at else None


# ---- where to ----


def refusal(address: str) -> str:
    """Why nothing is sent to this IP address: "a loopback address" …; empty for one of the public internet."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "no IP address"
    if isinstance(parsed, ipaddress.IPv6Address):
        embedded = parsed.ipv4_mapped or parsed.sixtofour
        if embedded is None and parsed in _NAT64:
            embedded = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
        if embedded is not None:
            return refusal(str(embedded))
    return _kind(parsed)


def _kind(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    for name, holds in (
        ("a loopback address", address.is_loopback),
        ("an unspecified address", address.is_unspecified),
        ("a link-local address", address.is_link_local),
        ("a multicast address", address.is_multicast),
    ):
        if holds:
            return name
    for network, kind in _SPECIAL:
        if address.version == network.version and address in network:
            return kind
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return "a special-purpose address"
    return "" if address.is_global else "a private or reserved address"


def check_url(url: str, *, allow_private: bool) -> str:
    """The URL, if it can be one of a receiver; raises InvalidInput. Its name is looked up, and judged, at each attempt."""
    parts = _split(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidInput(f"{url!r} can't be a webhook's URL: it has to begin with https:// (or http://) and to name a host.")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("A webhook's URL can't carry a user or a password: the signature says who sends. Leave them out.")
    if parts.fragment:
        raise InvalidInput(f"{url!r} can't be a webhook's URL: what follows '#' is never sent. Leave it out.")
    if _looks_like_ipv4(host) and not _is_address(host):
        raise InvalidInput(f"{url!r} can't be a webhook's URL: write its address as four numbers, 192.0.2.1.")
    if not allow_private:
        is_local = host == "localhost" or host.endswith(".localhost")
        why = "a loopback address" if is_local else refusal(host) if _is_address(host) else ""
        if why:
            raise InvalidInput(f"{url!r} is refused: {host} is {why}. {HOW_TO_ALLOW}")
    return url


HOW_TO_ALLOW = "Start the platform with `--webhook-allow-private` to allow receivers in one's own network."


def _split(url: str) -> SplitResult:
    if len(url) > MAX_URL_CHARS or not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        raise InvalidInput(f"A webhook's URL has at most {MAX_URL_CHARS} characters, all of them ASCII and none of them a space.")
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no port
    except ValueError as error:
        raise InvalidInput(f"{url!r} can't be a webhook's URL: {error}.") from error
    if any(len(label) > 63 for label in (parts.hostname or "").split(".")):
        raise InvalidInput(f"{url!r} can't be a webhook's URL: a part of its host name has over 63 characters.")
    return parts


def _looks_like_ipv4(host: str) -> bool:
    """Whether the look-up of a name would take it for a number: "127.1", "0x7f000001"."""
    last = host.rpartition(".")[2]
    return last.isdecimal() or last.startswith("0x")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# ---- what ----


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is said of the one input of a call. `result_format`: "cbor", "pickle", "generator", "http"."""

    input_id: str
    status: str  # "success", "failure", "timeout" …
    started_at: float = 0.0
    attempts: int = 1
    exception: str = ""
    result: Any = None
    result_format: str = ""
    result_omitted: str = ""  # why `result` is null though there is one
    items: int | None = None  # that a generator yielded


@dataclass(frozen=True, slots=True)
class EndedCall:
    """All that a delivery tells of a call: of a single one its outcome, of a map how many inputs ended how."""

    call_id: str
    app_id: str
    app: str
    environment: str
    function: str
    created_at: float
    finished_at: float
    cancelled: bool = False
    outcome: Outcome | None = None
    counts: Mapping[str, int] = field(default_factory=dict[str, int])


def covers(wanted: str, tag: str, method: str = "") -> bool:
    """Whether a webhook for this function (empty: all) hears of that one; "Cls" covers all methods of a class.

    Without a method, "Cls.one" is taken to cover the class: which method was called is known only from the input.
    """
    if not wanted or wanted == tag:
        return True
    if not tag.endswith(".*"):
        return False
    cls, _, wanted_method = wanted.partition(".")
    return cls == tag[:-2] and (wanted_method in ("", "*") or not method or method == wanted_method)


def event_of(call: EndedCall) -> CallEnd:
    """A map has completed if each of its inputs has; a cancelled one is cancelled unless all had completed."""
    if call.outcome is not None:
        by_status = {"success": CallEnd.COMPLETED, "timeout": CallEnd.TIMED_OUT, "terminated": CallEnd.CANCELLED}
        return by_status.get(call.outcome.status, CallEnd.FAILED)
    if set(call.counts) <= {"success"}:
        return CallEnd.COMPLETED
    return CallEnd.CANCELLED if call.cancelled else CallEnd.FAILED


def document(call: EndedCall) -> dict[str, Any]:
    """The body of a delivery."""
    data: dict[str, Any] = {
        "function_call_id": call.call_id,
        "kind": "single" if call.outcome is not None else "map",
        "app": call.app,
        "app_id": call.app_id,
        "environment": call.environment,
        "function": call.function,
        "created_at": _moment(call.created_at),
        "finished_at": _moment(call.finished_at),
    }
    event = event_of(call)
    if (outcome := call.outcome) is not None:
        data |= _of_outcome(outcome)
    else:
        data |= {
            "status": event.value.partition(".")[2],
            "inputs": sum(call.counts.values()),
            "inputs_by_status": dict(call.counts),
        }
    return {"type": event.value, "timestamp": _moment(call.finished_at), "data": data}


def _of_outcome(outcome: Outcome) -> dict[str, Any]:
    said: dict[str, Any] = {
        "input_id": outcome.input_id,
        "status": outcome.status,
        "started_at": _moment(outcome.started_at) if outcome.started_at else None,
        "attempts": outcome.attempts,
    }
    if outcome.status != "success":
        return said | {"error": error_of(outcome.exception)}
    said |= {"result": outcome.result, "result_format": outcome.result_format or None}
    if outcome.result_omitted:
        said["result_omitted"] = outcome.result_omitted
    if outcome.items is not None:
        said["items"] = outcome.items
    return said


def error_of(exception: str) -> dict[str, str | None]:
    """Type and message of "ValueError('no')", as a container writes exceptions; other words are a message without a type."""
    found = _EXCEPTION.match(exception)
    return {"type": found[1] if found else None, "message": exception[:MAX_MESSAGE_CHARS]}


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
