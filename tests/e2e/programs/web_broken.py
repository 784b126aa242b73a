"""A web function whose container can't start."""

import modal

app = modal.App("web-broken", image=modal.Image.debian_slim().pip_install("fastapi==0.115.12", "flask==3.1.0"))


@app.function(serialized=True)
@modal.asgi_app()
def broken():
    raise RuntimeError("the password is hunter2")
