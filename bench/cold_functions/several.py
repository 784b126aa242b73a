"""Twenty functions of one image."""

from collections.abc import Callable

import modal

from bench.cold_functions.images import plain

APP = "pilotlight-cold-several"
FUNCTIONS = [f"noop_{number}" for number in range(20)]

app = modal.App(APP, image=plain, include_source=True)


def _named(name: str) -> Callable[[object], object]:
    def function(value: object = None) -> object:
        return value

    function.__name__ = function.__qualname__ = name
    return function


for _name in FUNCTIONS:
    globals()[_name] = app.function(scaledown_window=2)(_named(_name))
