"""The web app that is measured; the ruler's container serves the same one."""

import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import modal

APP, FUNCTION = "pilotlight-bench-web", "site"
REQUESTS_AT_ONCE = 100
BLOCK = bytes(1 << 20)

app = modal.App(APP, image=modal.Image.debian_slim(), include_source=True)


@app.function(max_containers=1)
@modal.concurrent(max_inputs=REQUESTS_AT_ONCE)
@modal.asgi_app(label=APP)
def site() -> Callable[..., Awaitable[None]]:
    return respond


async def respond(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """`/`: how many bytes it was sent, or "ok"; `/bytes/N`: so many; `/about`: where it runs, as JSON."""
    if scope["type"] != "http":
        return
    received, more = 0, True
    while more:
        message = await receive()
        received += len(message.get("body", b""))
        more = message.get("more_body", False)
    path = scope["path"]
    if path.startswith("/bytes/"):
        await _send(send, BLOCK, int(path.removeprefix("/bytes/")))
        return
    answer = json.dumps(about()) if path == "/about" else str(received or "ok")
    await _send(send, answer.encode(), len(answer))


def about() -> dict[str, str]:
    """Where this runs."""
    interpreter = os.path.realpath(sys.executable)
    return {"task_id": os.environ["MODAL_TASK_ID"], "python": sys.version.split()[0], "interpreter": interpreter}


async def _send(send: Callable[..., Any], block: bytes, size: int) -> None:
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for begin in range(0, size, len(block)):
        left = size - begin
        await send({"type": "http.response.body", "body": block[:left], "more_body": left > len(block)})
