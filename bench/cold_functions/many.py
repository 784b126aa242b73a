"""A thousand functions over ten images, deployed and not called: they are to cost the others nothing."""

from collections.abc import Callable

import modal

from bench.cold_functions.images import plain

APP = "pilotlight-cold-many"
FUNCTIONS, IMAGES = 1000, 10

app = modal.App(APP, include_source=True)
_images = [plain.run_commands(f"echo {number} > /number") for number in range(IMAGES)]


def _numbered(number: int) -> Callable[[], int]:
    def function() -> int:
        return number

    function.__name__ = function.__qualname__ = f"number_{number}"
    return function


for _number in range(FUNCTIONS):
    globals()[f"number_{_number}"] = app.function(image=_images[_number % IMAGES], scaledown_window=2)(_numbered(_number))
