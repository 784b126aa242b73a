"""Parameters of classes out of query strings."""

import base64

import pytest
from modal._serialization import deserialize_proto_params, serialize_proto_params
from modal_proto import api_pb2

from pilotlight.control.web_parameters import parameter_names, serialized_parameters
from pilotlight.core import errors

FUNCTION = api_pb2.Function(
    class_parameter_info=api_pb2.ClassParameterInfo(
        format=api_pb2.ClassParameterInfo.PARAM_SERIALIZATION_FORMAT_PROTO,
        schema=[
            api_pb2.ClassParameterSpec(name="who", type=api_pb2.PARAM_TYPE_STRING),
            api_pb2.ClassParameterSpec(name="size", type=api_pb2.PARAM_TYPE_INT, has_default=True, int_default=3),
            api_pb2.ClassParameterSpec(name="loud", type=api_pb2.PARAM_TYPE_BOOL, has_default=True, bool_default=False),
            api_pb2.ClassParameterSpec(name="key", type=api_pb2.PARAM_TYPE_BYTES, has_default=True, bytes_default=b""),
        ],
    )
)


def test_words_become_what_the_class_declared() -> None:
    given = {"who": "Ann", "size": "-5", "loud": "True", "key": base64.urlsafe_b64encode(b"\xff\xfe\x00").decode()}
    expected = {"who": "Ann", "size": -5, "loud": True, "key": b"\xff\xfe\x00"}
    assert deserialize_proto_params(serialized_parameters(FUNCTION, given)) == expected
    assert parameter_names(FUNCTION) == ["who", "size", "loud", "key"]


def test_the_same_set_is_the_same_as_the_clients() -> None:
    by_client = serialize_proto_params({"who": "Ann", "size": 3, "loud": False, "key": b""})
    assert serialized_parameters(FUNCTION, {"who": "Ann", "unrelated": "1"}) == by_client


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "who"),
        ({"who": "A", "size": "big"}, "size"),
        ({"who": "A", "size": str(2**63)}, "size"),
        ({"who": "A", "loud": "2"}, "loud"),
        ({"who": "A", "key": "*"}, "key"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, str], named: str) -> None:
    with pytest.raises(errors.InvalidInput, match=f"'{named}'"):
        serialized_parameters(FUNCTION, given)
