"""Inputs as they come in: their names, and their rows."""

from dataclasses import dataclass

from pilotlight.control.live import LiveInput
from pilotlight.core import ids
from pilotlight.core.inputs import Recorded


@dataclass(frozen=True, slots=True)
class Accepted:
    """An input that is on disk."""

    idx: int
    input_id: str


def call_id_of(function_id: str, key: str) -> str:
    """The id of the call that a request under this key makes: the same each time."""
    return ids.derived(ids.CALL, function_id, key)


def input_id_of(call_id: str, idx: int) -> str:
    """Inputs are named by their place in the call, so that the same request again names the same input."""
    return ids.derived(ids.INPUT, call_id, idx)


def input_row(item: LiveInput) -> dict[str, object]:
    """What is written of a new input."""
    return {
        "input_id": item.input_id,
        "call_id": item.call.call_id,
        "idx": item.idx,
        "state": Recorded.UNFINISHED,
        "payload": item.payload,
        "retry_count": 0,
        "deaths": 0,
    }
