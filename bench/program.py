"""The program that is measured: functions that return what they get. The ruler's containers import the same ones."""

import signal

import modal

APP = "pilotlight-bench"
app = modal.App(APP, image=modal.Image.debian_slim(), include_source=True)


@app.function(max_containers=1)
def one_container(value: object = None) -> object:
    return value


@app.function(max_containers=2)
def two_containers(value: object = None) -> object:
    return value


@app.function(max_containers=1)
@modal.concurrent(max_inputs=100)
def hundred_at_once(value: object = None) -> object:
    return value


@app.function(max_containers=1, timeout=24 * 3600)
def asleep(value: object = None) -> None:
    """Holds its first input, so that the others stay in the queue; ends with the app."""
    signal.pause()
