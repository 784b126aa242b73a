"""Which fields of a request the audit log may see."""

from types import SimpleNamespace

import pytest
from modal_proto import api_pb2

from pilotlight.core.audit import ACTIONS, MAX_OBJECT_CHARS, OF_REPLY, changes_nothing, object_of, printable
from pilotlight.wire import platform_pb2

SERVICES = (api_pb2.DESCRIPTOR.services_by_name["ModalClient"], platform_pb2.DESCRIPTOR.services_by_name["Control"])
METHODS = {method.name: method for service in SERVICES for method in service.methods}
# What could hold a value that is nobody's business, wherever it turns up.
SECRETS = {"env_dict", "updates", "data", "value", "values", "token_secret", "url", "tags", "exception", "commit_info", "settings"}


@pytest.mark.parametrize("action", ACTIONS)
def test_actions_name_fields_that_there_are_and_hold_no_secret(action: str) -> None:
    method = METHODS[action]
    for name in ACTIONS[action]:
        of = method.output_type if name.startswith(OF_REPLY) else method.input_type
        field = of.fields_by_name[name.removeprefix(OF_REPLY)]
        assert field.message_type is None and field.name not in SECRETS


def test_what_is_made_is_named_by_name_and_id() -> None:
    request = platform_pb2.TokenCreateRequest(name="ci")
    reply = platform_pb2.TokenCreateReply(token_id="ak-1", token_secret="as-secret")
    assert object_of("TokenCreate", request, reply) == "ci/ak-1"
    assert object_of("TokenCreate", request) == "ci"
    secret = api_pb2.SecretGetOrCreateRequest(deployment_name="db", environment_name="main", env_dict={"PASSWORD": "hunter2"})
    assert object_of("SecretGetOrCreate", secret, api_pb2.SecretGetOrCreateResponse(secret_id="st-1")) == "main/db"


def test_to_look_up_is_no_change_and_neither_is_what_has_no_name() -> None:
    make = api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
    assert changes_nothing(api_pb2.DictGetOrCreateRequest(deployment_name="d"))
    assert changes_nothing(api_pb2.DictGetOrCreateRequest(object_creation_type=make))
    assert not changes_nothing(api_pb2.DictGetOrCreateRequest(deployment_name="d", object_creation_type=make))
    assert not changes_nothing(api_pb2.AppGetOrCreateRequest(app_name="a", object_creation_type=make))
    assert changes_nothing(platform_pb2.CollectRequest(dry_run=True))
    assert not changes_nothing(SimpleNamespace(app_id="ap-1"))


def test_names_do_no_harm_in_a_terminal() -> None:
    assert printable("a\x1b[31mred\n") == "a?[31mred?"
    assert len(printable("x" * 5000)) == MAX_OBJECT_CHARS
