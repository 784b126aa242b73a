"""What an app is told of a request: ASGI's scope, as the official runtime takes it."""

from typing import Any

from starlette.types import Scope

from pilotlight.core.forwarded import client_and_scheme
from pilotlight.edge.admission import Head
from pilotlight.edge.proxy_auth import credentials

_SHARED = ("type", "http_version", "path", "query_string")


def head_of(scope: Scope) -> Head:
    """What the door looks at."""
    return Head(scope.get("method", "GET"), scope["query_string"], dict(scope["headers"]))


def app_scope(scope: Scope, head: Head, *, is_guarded: bool) -> dict[str, Any]:
    """The scope for the app. Where a proxy token opened the door (`is_guarded`) its secret stays outside."""
    headers = scope["headers"]
    if is_guarded:
        withheld = credentials(head.headers)
        headers = [header for header in headers if header[0] not in withheld]
    client, scheme = client_and_scheme(head.headers, scope["client"], scope["scheme"])
    told: dict[str, Any] = {name: scope[name] for name in _SHARED}
    told |= {"asgi": {"version": "3.0"}, "root_path": "", "scheme": scheme, "client": client, "headers": headers}
    told |= {"method": scope["method"]} if scope["type"] == "http" else {"subprotocols": scope["subprotocols"]}
    return told
