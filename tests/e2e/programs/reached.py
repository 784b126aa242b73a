"""A function whose argument and result are blobs, and a server on a port, called by a client that may be on another machine."""

import subprocess
import sys
import urllib.request

import modal

app = modal.App("reached")
image = modal.Image.debian_slim()
SIZE = 3 << 20


@app.function(image=image)
def backwards(data: bytes) -> bytes:
    return data[::-1]


@app.function(image=image)
@modal.web_server(8000)
def files() -> None:
    subprocess.Popen([sys.executable, "-m", "http.server", "8000", "--directory", "/etc"])


@app.local_entrypoint()
def main() -> None:
    data = bytes(range(256)) * (SIZE // 256)
    assert backwards.remote(data) == data[::-1]
    url = files.get_web_url()
    assert url
    import ssl

    import certifi  # the bundle by which the client itself trusts, for the page too

    context = ssl.create_default_context(cafile=certifi.where()) if url.startswith("https") else None
    with urllib.request.urlopen(f"{url}/hostname", timeout=60, context=context) as page:
        print(f"page {url} {page.status} {page.read().decode().strip()}")  # in one piece: containers are printing too
