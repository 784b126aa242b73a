"""Who calls: on the public listener whoever has a token, on the inner one a node on behalf of a task.

What a request claims beyond that (client type and version, idempotency key) is taken as it comes and decides nothing of security.
"""

import hmac
import time
from collections.abc import Callable, Mapping

from grpclib import Status
from modal_proto import api_pb2

from pilotlight.control.audit import Audit
from pilotlight.control.tokens import Tokens
from pilotlight.core import errors
from pilotlight.core.audit import SIGN_IN
from pilotlight.core.ids import TaskId
from pilotlight.core.reach import Edge
from pilotlight.core.sign_ins import SignIns
from pilotlight.core.versions import is_older
from pilotlight.rpc.framework import Caller
from pilotlight.wire.listening import AUTHORITY, PEER

NODE_TOKEN_HEADER = "x-pilotlight-node-token"
TASK_HEADER = "x-pilotlight-task-id"
EDGE_HEADER = "x-pilotlight-edge-url"

OLDEST_CLIENT = (1, 1)
# JavaScript and Go clients count their versions in their own way.
_PYTHON_CLIENTS = (api_pb2.CLIENT_TYPE_CLIENT, api_pb2.CLIENT_TYPE_CONTAINER)


def check_node_token(given: str, node_token: bytes) -> None:
    """Accept the hexadecimal node token or raise BadCredentials."""
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), node_token.hex().encode()):
        raise errors.BadCredentials(
            "The node token is missing or wrong: it must be the one in the server's keys directory. "
            "Start the node agent with the state directory of this platform."
        )


class TokenAuthenticator:
    """For the public listener: a valid token with every request."""

    def __init__(self, tokens: Tokens, edge: Edge, audit: Audit | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._tokens = tokens
        self._edge = edge
        self._audit = audit
        self._now = now
        self._sign_ins = SignIns()

    def __call__(self, metadata: Mapping[str, str]) -> Caller:
        token_id = str(metadata.get("x-modal-token-id", ""))
        address = str(metadata.get(PEER, ""))
        self._verify(token_id, str(metadata.get("x-modal-token-secret", "")), address)
        return _caller(metadata, token_id, None, self._edge.url_for(str(metadata.get(AUTHORITY, ""))), address)

    def _verify(self, token_id: str, secret: str, address: str) -> None:
        if wait_s := self._sign_ins.wait_s(address, token_id, self._now()):
            raise errors.OverLimit(
                f"Too many requests from {address} came with tokens that are not of this platform. It is looked at again in "
                f"{wait_s:.0f} s. Clients at that address which were signed in before are not concerned."
            )
        try:
            self._tokens.verify(token_id, secret)
        except errors.BadCredentials:
            if address:
                self._sign_ins.failed(address, self._now())
            if self._audit is not None:
                about = token_id if self._tokens.is_known(token_id) else ""  # else it could be anything, even a secret
                outcome = Status.UNAUTHENTICATED.name
                self._audit.record(actor="", address=address, action=SIGN_IN, about=about, outcome=outcome)
            raise
        self._sign_ins.succeeded(address, token_id)


class NodeAuthenticator:
    """For the inner listener: the node token, and a task that the server knows to be live (`is_live`)."""

    def __init__(self, node_token: bytes, is_live: Callable[[TaskId], bool]) -> None:
        self._node_token = node_token
        self._is_live = is_live

    def __call__(self, metadata: Mapping[str, str]) -> Caller:
        check_node_token(str(metadata.get(NODE_TOKEN_HEADER, "")), self._node_token)
        task_id = TaskId(str(metadata.get(TASK_HEADER, "")))
        if not self._is_live(task_id):
            raise errors.NotAllowed(f"Container {task_id or '(unnamed)'} has ended, or was never started here, and may not call.")
        return _caller(metadata, "", task_id, str(metadata.get(EDGE_HEADER, "")) or None)


def _caller(
    metadata: Mapping[str, str], token_id: str, task_id: TaskId | None, edge_base_url: str | None, address: str = ""
) -> Caller:
    kind = str(metadata.get("x-modal-client-type", ""))
    client_type = int(kind) if kind.isdecimal() and len(kind) < 4 else 0
    version = str(metadata.get("x-modal-client-version", ""))[:64]
    if client_type in _PYTHON_CLIENTS and is_older(version, OLDEST_CLIENT):
        oldest = ".".join(map(str, OLDEST_CLIENT))
        raise errors.WrongState(
            f"The modal client {version or '(unknown version)'} is too old for this platform, which needs {oldest} or newer: "
            "`pip install --upgrade modal`."
        )
    return Caller(
        token_id=token_id,
        client_type=client_type,
        client_version=version,
        task_id=task_id,
        edge_base_url=edge_base_url,
        idempotency_key=str(metadata.get("x-idempotency-key", ""))[:128],
        is_repeated=str(metadata.get("x-retry-attempt", "0")) not in ("", "0"),
        address=address,
    )
