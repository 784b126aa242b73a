"""A web app made with Starlette."""

from typing import Any

import modal

from bench.cold_functions.images import science

APP = "pilotlight-cold-web"
app = modal.App(APP, image=science, include_source=True)

with science.imports():
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route


@app.function(scaledown_window=2)
@modal.asgi_app(label=APP)
def site() -> Any:
    async def answer(request: object) -> "PlainTextResponse":
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/", answer)])
