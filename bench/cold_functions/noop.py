"""No-ops: one, one that takes one input per container, and one that sleeps for a moment."""

import time

import modal

from bench.cold_functions.images import plain

APP = "pilotlight-cold-noop"
WINDOW_S = 2  # the shortest that may be asked for

app = modal.App(APP, image=plain, include_source=True)


@app.function(scaledown_window=WINDOW_S)
def noop(value: object = None) -> object:
    return value


# A variable that an interpreter reads at its start can't be given to one that was forked.
@app.function(scaledown_window=WINDOW_S, secrets=[modal.Secret.from_dict({"LANGUAGE": "en"})])
def ordinary(value: object = None) -> object:
    """As the no-op, but its containers are always made the ordinary way."""
    return value


@app.function(max_inputs=1, scaledown_window=WINDOW_S)
def single_use(value: object = None) -> object:
    return value


@app.function(scaledown_window=WINDOW_S)
def moment(value: float) -> float:
    """`value`: for how long it works, in seconds."""
    time.sleep(value)
    return value
