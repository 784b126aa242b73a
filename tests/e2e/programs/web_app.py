"""Web functions of every kind that requests become inputs of. What "version" they are is in VERSION of whoever deploys them."""

import asyncio
import os

import modal

app = modal.App("web", image=modal.Image.debian_slim().pip_install("fastapi==0.115.12", "flask==3.1.0"))
version = modal.Secret.from_dict({"VERSION": os.environ.get("VERSION", "1")})


@app.function()
@modal.fastapi_endpoint(method="POST", docs=True)
def add(body: dict, scale: int = 1) -> dict:
    return {"sum": (body["a"] + body["b"]) * scale}


@app.function(secrets=[version])
@modal.concurrent(max_inputs=100)
@modal.asgi_app(label="Front_Door")
def front():
    from fastapi import FastAPI, Request, WebSocket
    from fastapi.responses import StreamingResponse

    api = FastAPI()

    @api.get("/")
    async def which() -> str:
        return os.environ["VERSION"]

    @api.get("/url")
    async def url() -> str | None:
        return await front.get_web_url.aio()

    @api.get("/slow/{seconds}")
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @api.post("/die")
    async def die() -> None:
        os._exit(1)

    @api.post("/size")
    async def size(request: Request) -> int:
        return sum([len(piece) async for piece in request.stream()])

    @api.get("/events")
    async def events(pause_s: float = 0.2) -> StreamingResponse:
        async def count():
            for number in range(3):
                yield f"data: {number}\n\n"
                await asyncio.sleep(pause_s)

        return StreamingResponse(count(), media_type="text/event-stream")

    @api.websocket("/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        while (text := await socket.receive_text()) != "end":
            await socket.send_text(text.upper())
        await socket.close(4321)

    return api


@app.function()
@modal.wsgi_app()
def old():
    from flask import Flask, request

    site = Flask("old")

    @site.route("/<name>", methods=["GET", "PUT"])
    def page(name: str):
        return f"{request.method} {name} {request.args.get('q', '')} {len(request.data)}"

    return site


@app.cls(scaledown_window=5)
class Greeter:
    who: str = modal.parameter()
    times: int = modal.parameter(default=1)

    @modal.fastapi_endpoint()
    def hello(self) -> str:
        return "hello " + " ".join([self.who] * self.times)

    @modal.method()
    def plain(self) -> str:
        return "by call " + self.who


@app.function()
@modal.fastapi_endpoint(requires_proxy_auth=True)
def private() -> str:
    return "secret"


@app.function(scaledown_window=2)
@modal.fastapi_endpoint()
def brief() -> tuple[str, str]:
    return modal.current_function_call_id() or "", os.environ["MODAL_TASK_ID"]
