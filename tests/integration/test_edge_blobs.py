"""The edge on real sockets, as a process of its own, and the HTTP library and upload code of the official client."""

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from modal._utils import http_utils
from modal._utils.blob_utils import _upload_to_s3_url, perform_multipart_upload
from modal._utils.bytes_io_segment_payload import BytesIOSegmentPayload
from modal._utils.http_utils import ClientSessionRegistry
from starlette.applications import Starlette

from pilotlight.config import Settings
from pilotlight.core import blobs
from pilotlight.core.blobs import BlobUrls, PartedUpload, WholeUpload, plan_upload
from pilotlight.edge.app import REFUSALS
from pilotlight.edge.blobs import Blobs
from pilotlight.objects import Objects, load_or_create_key

START_TIMEOUT_S = 60
BLOB = "bl-0123456789abcdefABCDEF"
EDGE = """
import socket, sys, uvloop
from pathlib import Path
from pilotlight import logging
from pilotlight.config import Settings
from pilotlight.edge.server import serve
logging.configure("DEBUG", "edge")
settings = Settings.model_validate_json(sys.argv[1])
uvloop.run(serve(settings, [socket.socket(fileno=int(sys.argv[2]))], lambda: print("ready", flush=True)))
"""


@dataclass
class Edge:
    urls: BlobUrls
    base_url: str
    process: asyncio.subprocess.Process
    state: Path
    http: aiohttp.ClientSession

    @property
    def files(self) -> set[str]:
        """All that the store holds."""
        root = self.state / "objects"
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    async def until(self, reached: Callable[[dict[str, float]], bool]) -> None:
        """Ask for the edge's metrics until they say so."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                async with self.http.get(f"{self.base_url}/metrics") as response:
                    lines = [line.rpartition(" ") for line in (await response.text()).splitlines() if not line.startswith("#")]
                if reached({name: float(value) for name, _, value in lines}):
                    return

    async def drained(self) -> None:
        """Wait until no request but the one that asks is under way."""
        await self.until(lambda metrics: metrics["pilotlight_edge_requests_open"] == 1)


@contextlib.asynccontextmanager
async def running(state: Path, host: str = "127.0.0.1") -> AsyncIterator[Edge]:
    listener = socket.create_server(("127.0.0.1", 0))
    settings = Settings(state=state, web=f"127.0.0.1:{listener.getsockname()[1]}")
    arguments = (sys.executable, "-c", EDGE, settings.model_dump_json(), str(listener.fileno()))
    process = await asyncio.create_subprocess_exec(*arguments, pass_fds=[listener.fileno()], stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout
        async with asyncio.timeout(START_TIMEOUT_S):
            assert await process.stdout.readline() == b"ready\n"
        base_url = f"http://{host}:{settings.web_port}"
        urls = BlobUrls(load_or_create_key(settings.keys_dir / "signing.key"), base_url)
        async with aiohttp.ClientSession() as http, client_session():
            yield Edge(urls, base_url, process, state, http)
    finally:
        listener.close()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(START_TIMEOUT_S):
            assert await process.wait() == 0


@contextlib.asynccontextmanager
async def client_session() -> AsyncIterator[None]:
    """The client keeps one HTTP session per process, in its own event loop; here it gets another, in that of the test."""

    class Apart(ClientSessionRegistry):
        _client_session_active = False
        _shutdown_unregister = None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(http_utils, "ClientSessionRegistry", Apart)
        try:
            yield
        finally:
            await Apart.close_session()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (5 << 20) + 7])
def test_what_the_client_uploads_comes_back(tmp_path: Path, size: int) -> None:
    async def scenario() -> None:
        data = os.urandom(size)
        async with running(tmp_path) as edge:
            plan = plan_upload(edge.urls, BLOB, size, b64encode(hashlib.md5(data).digest()).decode())
            assert isinstance(plan, WholeUpload)
            for _ in range(2):  # again is fine
                assert await _upload_to_s3_url(plan.url, BytesIOSegmentPayload(BytesIO(data), 0, size)) == md5(data)
            async with edge.http.get(edge.urls.download_url(BLOB)) as response:
                assert response.status == 200
                assert await response.read() == data
            async with edge.http.head(edge.urls.download_url(BLOB)) as response:
                assert (response.status, response.headers["content-length"]) == (200, str(size))
            assert edge.files == {f"blobs/{BLOB}"}

    asyncio.run(scenario())


def test_a_range_is_sent_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        data = os.urandom(3_000_000)
        async with running(tmp_path) as edge:
            async with edge.http.put(edge.urls.upload_url(BLOB, len(data)), data=BytesIO(data)) as response:
                assert (response.status, response.headers["etag"]) == (200, f'"{md5(data)}"')
            for asked, status, expected in [
                ("bytes=10-19", 206, data[10:20]),
                ("bytes=2500000-", 206, data[2_500_000:]),
                ("bytes=-5", 206, data[-5:]),
                ("bytes=2999999-9999999", 206, data[-1:]),
                ("bytes=3000000-", 416, b""),
                ("bytes=0-1,5-6", 200, data),
            ]:
                async with edge.http.get(edge.urls.download_url(BLOB), headers={"range": asked}) as response:
                    assert (response.status, await response.read()) == (status, expected), asked

    asyncio.run(scenario())


def test_refusals_say_why(tmp_path: Path) -> None:
    async def scenario() -> None:
        data = os.urandom(3 << 20)
        async with running(tmp_path) as edge:
            put = edge.urls.upload_url(BLOB, len(data), md5(b"other"))
            expired = BlobUrls(b"k" * 32, edge.base_url, clock=lambda: 0).download_url(BLOB)
            cases = [
                ("PUT", put, data, 400, "Content-MD5 you specified did not match"),
                ("PUT", edge.urls.upload_url(BLOB, 3), data, 400, "given out for 3"),
                ("PUT", put.replace("length=", "length=1"), data, 403, "signature"),
                ("GET", put, b"", 403, "signature"),
                ("GET", expired, b"", 403, "signature"),
                ("GET", urlsplit(put)._replace(query="").geturl(), b"", 403, "signature"),
                ("GET", edge.urls.download_url("bl-unknown"), b"", 404, "there is no blob bl-unknown"),
                ("GET", edge.urls.download_url("xx-unknown"), b"", 400, "no blob id"),
            ]
            for method, url, body, status, words in cases:
                async with edge.http.request(method, url, data=BytesIO(body)) as response:
                    assert response.status == status, url
                    assert words in await response.text()
            await edge.drained()
            assert edge.files == set()

    asyncio.run(scenario())


@pytest.mark.parametrize("headers", ["content-length: 8000000", "transfer-encoding: chunked"])
def test_a_broken_upload_leaves_nothing(tmp_path: Path, headers: str) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as edge:
            url = urlsplit(edge.urls.upload_url(BLOB, 8_000_000))
            _, writer = await asyncio.open_connection(url.hostname, url.port)
            body = bytes(3_000_000)
            framed = body if headers.startswith("content") else b"%x\r\n%s\r\n" % (len(body), body)
            writer.write(f"PUT {url.path}?{url.query} HTTP/1.1\r\nhost: edge\r\n{headers}\r\n\r\n".encode() + framed)
            await writer.drain()
            await edge.until(lambda metrics: metrics["pilotlight_edge_received_bytes_total"] >= len(body))
            assert [name for name in edge.files if name.startswith("drafts/")]
            writer.close()
            await edge.drained()
            assert edge.files == set()

    asyncio.run(scenario())


def test_the_client_uploads_in_parts_where_the_host_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(blobs, "MIN_PART_BYTES", 2 << 20)
        monkeypatch.setattr(blobs, "takes_whole_body", lambda host, **_: False)
        data = os.urandom(5_000_000)
        async with running(tmp_path) as edge:
            plan = plan_upload(edge.urls, BLOB, len(data))
            assert isinstance(plan, PartedUpload)
            assert len(plan.part_urls) == 3
            with monkeypatch.context() as other:
                other.setattr("modal._utils.blob_utils.use_md5", lambda url: False)
                for _ in range(2):
                    await perform_multipart_upload(
                        BytesIO(data),
                        content_length=len(data),
                        max_part_size=plan.part_bytes,
                        part_urls=list(plan.part_urls),
                        completion_url=plan.completion_url,
                    )
            async with edge.http.get(edge.urls.download_url(BLOB)) as response:
                assert await response.read() == data
            assert edge.files == {f"blobs/{BLOB}"}

    asyncio.run(scenario())


def test_parts_that_were_not_received_are_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        def listing(*digests: str) -> bytes:
            parts = (f"<Part><PartNumber>{n}</PartNumber><ETag>{d}</ETag></Part>" for n, d in enumerate(digests, start=1))
            return f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>".encode()

        async with running(tmp_path) as edge:
            completion = edge.urls.completion_url(BLOB, 2, 10)
            async with edge.http.put(edge.urls.part_url(BLOB, 1, 5), data=b"12345") as response:
                assert response.status == 200
            cases = [
                (listing(md5(b"12345"), md5(b"67890")), "part 2 of"),
                (listing(md5(b"54321"), md5(b"67890")), "part 1 of"),
                (listing(md5(b"12345")), "name them all"),
                (b"<!DOCTYPE x><x/>", "without <!"),
                (b"no xml", "is no XML"),
            ]
            for body, words in cases:
                async with edge.http.post(completion, data=body) as response:
                    assert response.status == 400
                    assert words in await response.text()

    asyncio.run(scenario())


def test_metrics_and_health_while_the_server_is_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as edge:
            async with edge.http.get(f"{edge.base_url}/healthz") as response:
                assert response.status == 200
            async with edge.http.get(f"{edge.base_url}/metrics") as response:
                text = await response.text()
            assert "pilotlight_server_up 0.0" in text
            assert 'pilotlight_edge_requests_total{endpoint="healthz",method="GET",status="200"} 1.0' in text

    asyncio.run(scenario())


def test_a_body_that_stops_coming_is_refused_on_a_connection_that_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        objects, key, sent = Objects(tmp_path), b"k" * 32, []
        routes = Blobs(objects, key, silence_s=0.01).routes()
        app = Starlette(routes=routes, exception_handlers=REFUSALS)
        url = urlsplit(BlobUrls(key, "http://edge").upload_url(BLOB, 100))
        messages = [{"type": "http.request", "body": b"x" * 50, "more_body": True}]

        async def receive() -> dict[str, object]:
            if messages:
                return messages.pop()
            return await asyncio.Event().wait()  # type: ignore[return-value]

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "PUT",
            "path": url.path,
            "query_string": url.query.encode(),
            "headers": [],
            "server": None,
        }
        await app(scope, receive, send)
        assert sent[0]["status"] == 408 and (b"connection", b"close") in sent[0]["headers"]
        assert not await objects.exists(f"blobs/{BLOB}")
        objects.close()

    asyncio.run(scenario())
