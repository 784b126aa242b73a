"""A web function to be served while its text changes."""

import modal

app = modal.App("web-served", image=modal.Image.debian_slim().pip_install("fastapi==0.115.12", "flask==3.1.0"))


@app.function()
@modal.fastapi_endpoint()
def word() -> str:
    return "first"
