"""Waiting by redirects: a client that can't hold a request for long is sent to wait on at the same place.

Only while a container is being waited for, and only for requests without a body: bytes that were passed on can't be passed on
again.
"""

from dataclasses import replace

from pilotlight.edge import waiting
from pilotlight.edge.ports.heads import RequestHead

CALL_ID_PARAMETER = waiting.CALL_ID_PARAMETER.encode()


def _split(target: bytes) -> tuple[bytes, list[bytes], list[bytes]]:
    """Path, and the query's parts: those of the program's own, and ours."""
    path, _, query = target.partition(b"?")
    parts = query.split(b"&") if query else []
    ours = [part for part in parts if part.partition(b"=")[0] == CALL_ID_PARAMETER]
    return path, [part for part in parts if part not in ours], ours


def follow_up(target: bytes, call_id: bytes) -> bytes:
    """Where a waiting client goes on: the same path and query, and the id under which it asked first."""
    path, parts, ours = _split(target)
    return waiting.no_host(path) + b"?" + b"&".join([*parts, ours[0] if ours else CALL_ID_PARAMETER + b"=" + call_id])


def without_call_id(request: RequestHead) -> RequestHead:
    """The request as the container shall see it."""
    if CALL_ID_PARAMETER not in request.target:
        return request
    path, parts, ours = _split(request.target)
    if not ours:
        return request
    return replace(request, target=path + (b"?" + b"&".join(parts) if parts else b""))
