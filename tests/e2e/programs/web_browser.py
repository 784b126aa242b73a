"""A page that does in a browser what pages do: fetch, streams, another origin, WebSockets; and tells its queue what it saw."""

import modal

app = modal.App("browser", image=modal.Image.debian_slim().pip_install("fastapi==0.115.12", "flask==3.1.0"))
seen = modal.Queue.from_name("seen-by-browser", create_if_missing=True)

PAGE = """<!doctype html><title>browser</title><script>
async function posted() {
  return (await (await fetch("/echo", {method: "POST", body: "posted äöü"})).text());
}
async function otherOrigin() {
  const url = location.origin.replace("browser-page", "browser-add");
  const answer = await fetch(url + "/?scale=2", {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify({a: 1, b: 2}),
  });
  return (await answer.json()).sum;
}
async function aborted() {
  try { await fetch("/slow", {signal: AbortSignal.timeout(200)}); return "came through"; } catch (error) { return error.name; }
}
function events() {
  return new Promise((resolve) => {
    const got = [], source = new EventSource("/events");
    source.onmessage = (event) => { got.push(event.data); if (got.length == 3) { source.close(); resolve(got.join()); } };
  });
}
function socket() {
  return new Promise((resolve, reject) => {
    const got = [], one = new WebSocket(location.origin.replace("http", "ws") + "/socket", ["chat"]);
    one.binaryType = "arraybuffer";
    one.onopen = () => { one.send("text"); one.send(new Uint8Array([1, 2, 255])); };
    one.onmessage = (event) => {
      got.push(typeof event.data == "string" ? event.data : Array.from(new Uint8Array(event.data)).join("-"));
      if (got.length == 2) one.send("end");
    };
    one.onclose = (event) => resolve([one.protocol, ...got, event.code, event.reason].join());
    one.onerror = () => reject(new Error("the socket failed"));
  });
}
async function all() {
  const report = {};
  for (const step of [posted, otherOrigin, aborted, events, socket]) {
    try { report[step.name] = await step(); } catch (error) { report[step.name] = "failed: " + error; }
  }
  await fetch("/report", {method: "POST", body: JSON.stringify(report)});
}
all();
</script>"""


@app.function()
@modal.fastapi_endpoint(method="POST")
def add(body: dict, scale: int = 1) -> dict:
    return {"sum": (body["a"] + body["b"]) * scale}


@app.function()
@modal.concurrent(max_inputs=20)
@modal.asgi_app()
def page():
    import asyncio
    import json

    from fastapi import FastAPI, Request, WebSocket
    from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse

    api = FastAPI()

    @api.get("/", response_class=HTMLResponse)
    async def read() -> str:
        return PAGE

    @api.post("/echo", response_class=PlainTextResponse)
    async def echo(request: Request) -> str:
        return (await request.body()).decode()

    @api.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(30)
        return "late"

    @api.get("/events")
    async def events() -> StreamingResponse:
        async def count():
            for number in range(3):
                yield f"data: {number}\n\n"

        return StreamingResponse(count(), media_type="text/event-stream")

    @api.websocket("/socket")
    async def socket(chat: WebSocket) -> None:
        await chat.accept(subprotocol="chat")
        while (message := await chat.receive()).get("text") != "end":
            if message.get("bytes") is not None:
                await chat.send_bytes(message["bytes"])
            else:
                await chat.send_text(message["text"])
        await chat.close(4001, "enough")

    @api.post("/report")
    async def report(request: Request) -> None:
        await seen.put.aio(json.loads(await request.body()))

    return api
