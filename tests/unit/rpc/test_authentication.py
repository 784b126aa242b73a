import pytest
from modal_proto import api_pb2

from pilotlight.core.errors import BadCredentials, NotAllowed, WrongState
from pilotlight.rpc.authentication import NodeAuthenticator

NODE_TOKEN = bytes(range(32))
METADATA = {
    "x-pilotlight-node-token": NODE_TOKEN.hex(),
    "x-pilotlight-task-id": "ta-1",
    "x-pilotlight-edge-url": "http://169.254.10.1:9980",
    "x-modal-client-type": "3",
    "x-modal-client-version": "1.6.4",
    "x-idempotency-key": "key",
}


def authenticate(**changes: str):
    return NodeAuthenticator(NODE_TOKEN, lambda task_id: task_id == "ta-1")(
        METADATA | {k.replace("_", "-"): v for k, v in changes.items()}
    )


def test_a_task_is_known_by_its_node() -> None:
    caller = authenticate()
    assert (caller.task_id, caller.edge_base_url, caller.idempotency_key) == ("ta-1", "http://169.254.10.1:9980", "key")
    assert caller.client_type == api_pb2.CLIENT_TYPE_CONTAINER


@pytest.mark.parametrize("token", ["", "00" * 32, "é"])
def test_a_stranger_is_no_node(token: str) -> None:
    with pytest.raises(BadCredentials, match="node token"):
        authenticate(x_pilotlight_node_token=token)


def test_a_container_that_has_ended_may_not_call() -> None:
    with pytest.raises(NotAllowed, match="ta-2"):
        authenticate(x_pilotlight_task_id="ta-2")


def test_old_clients_are_told_so() -> None:
    with pytest.raises(WrongState, match=r"modal client 0\.77\.1 is too old.*pip install --upgrade modal"):
        authenticate(x_modal_client_version="0.77.1")
    authenticate(x_modal_client_version="0.7.1", x_modal_client_type="8")
    authenticate(x_modal_client_type="nonsense")
