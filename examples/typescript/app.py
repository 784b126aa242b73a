"""The Python side of this example: two functions that are called by name, and three web endpoints.

modal deploy app.py
"""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import modal

if TYPE_CHECKING:
    from fastapi.responses import StreamingResponse

app = modal.App("typescript-example", image=modal.Image.debian_slim().pip_install("fastapi[standard]"))


@app.function()
def analyze(text: str) -> dict[str, object]:
    """Called by name, from anything that speaks the protocol."""
    words = text.split()
    return {"words": len(words), "longest": max(words, key=len, default="")}


@app.function(timeout=600)
def render(pages: int) -> dict[str, int]:
    """Takes its time: to be spawned, and its result collected later."""
    import time

    for page in range(pages):
        print(f"page {page + 1} of {pages}")
        time.sleep(0.2)
    return {"pages": pages, "bytes": pages * 1024}


@app.function()
@modal.fastapi_endpoint(method="POST")
def analysis(request: dict[str, str]) -> dict[str, object]:
    """The same by HTTP: open to all who know the address."""
    return analyze.local(request["text"])


@app.function()
@modal.fastapi_endpoint(requires_proxy_auth=True)
def report(month: str) -> dict[str, object]:
    """For those with a proxy token only: nobody else's request gets as far as this code."""
    return {"month": month, "calls": 1234}


@app.function()
@modal.fastapi_endpoint()
def progress(steps: int = 5) -> "StreamingResponse":
    """Events as they happen (Server-Sent Events)."""
    from fastapi.responses import StreamingResponse

    async def events() -> AsyncIterator[str]:
        for step in range(1, steps + 1):
            yield f'id: {step}\nevent: step\ndata: {{"step": {step}, "of": {steps}}}\n\n'
            await asyncio.sleep(0.1)
        yield "event: done\ndata: {}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
