"""What the edge counts, and the one page that shows it together with what the server counts."""

import asyncio
import time
from pathlib import Path

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilotlight.wire.platform_grpc import ControlStub
from pilotlight.wire.platform_pb2 import MetricsRequest

SERVER_REPLY_TIMEOUT_S = 1.0
_LATENCY_BUCKETS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)


class EdgeMetrics:
    """The edge's own figures, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        names = ("endpoint", "method", "status")
        self.requests = Counter("pilotlight_edge_requests", "HTTP requests answered by the edge", names, registry=registry)
        self.seconds = Histogram(
            "pilotlight_edge_request_seconds",
            "Time from a request's head to the end of its response",
            ("endpoint",),
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.open = Gauge("pilotlight_edge_requests_open", "HTTP requests under way at the edge", registry=registry)
        self.received = Counter("pilotlight_edge_received_bytes", "Bytes of request bodies", registry=registry)
        self.sent = Counter("pilotlight_edge_sent_bytes", "Bytes of response bodies", registry=registry)
        self.web_requests = Counter(
            "pilotlight_web_requests", "Requests to web functions by their status", ("function", "status"), registry=registry
        )
        self.web_seconds = Histogram(
            "pilotlight_web_request_seconds",
            "Time from a web request's head to the end of its response",
            ("function",),
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.web_waits = Histogram(
            "pilotlight_web_wait_seconds",
            "Time for which a web request waited for a container",
            ("function",),
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.server_up = Gauge(
            "pilotlight_server_up", "Whether the server answered the edge's request for its metrics", registry=registry
        )


class Measured:
    """ASGI middleware that counts what passes through."""

    def __init__(self, app: ASGIApp, metrics: EdgeMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status, started, metrics = 500, time.perf_counter(), self._metrics

        async def counted_receive() -> Message:
            message = await receive()
            metrics.received.inc(len(message.get("body", b"")))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            metrics.sent.inc(len(message.get("body", b"")))
            await send(message)

        metrics.open.inc()
        try:
            await self._app(scope, counted_receive, counted_send)
        finally:
            metrics.open.dec()
            # Names of our own handlers only: a stranger's paths would be without number.
            endpoint = getattr(scope.get("endpoint"), "__name__", "none")
            metrics.requests.labels(endpoint, scope["method"], status).inc()
            metrics.seconds.labels(endpoint).observe(time.perf_counter() - started)


class MetricsPage:
    """GET /metrics for Prometheus: the edge's figures and, while the server answers, the server's."""

    def __init__(self, metrics: EdgeMetrics, inner_socket_path: Path) -> None:
        self._metrics = metrics
        self._inner_socket_path = inner_socket_path

    async def metrics(self, request: Request) -> Response:
        """The text of both, one after the other: their names differ by prefix."""
        try:
            async with asyncio.timeout(SERVER_REPLY_TIMEOUT_S):
                theirs = await self._ask_server()
        except (OSError, TimeoutError, GRPCError, StreamTerminatedError):
            theirs = None  # being restarted, perhaps: the gauge says so
        self._metrics.server_up.set(theirs is not None)
        return Response(generate_latest(self._metrics.registry) + (theirs or "").encode(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def _ask_server(self) -> str:
        async with Channel(path=str(self._inner_socket_path)) as channel:
            return (await ControlStub(channel).Metrics(MetricsRequest())).text
