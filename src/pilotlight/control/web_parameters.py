"""The parameters of a class as a web address carries them: words of the query string, made into what the class declared."""

import base64
import binascii
from collections.abc import Mapping

from modal_proto import api_pb2

from pilotlight.core import errors

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_LEAST_INT, _GREATEST_INT = -(2**63), 2**63 - 1

Value = api_pb2.ClassParameterValue


def parameter_names(function: api_pb2.Function) -> list[str]:
    """Which parameters a request may give: none where the class has an `__init__` of its own."""
    return [spec.name for spec in function.class_parameter_info.schema]


def serialized_parameters(function: api_pb2.Function, given: Mapping[str, str]) -> bytes:
    """The parameter set for FunctionBindParams, as the client writes it: what was given first, then defaults.

    Raises InvalidInput that names the parameter.
    """
    schema = {spec.name: spec for spec in function.class_parameter_info.schema}
    values = [_value(schema[name], text) for name, text in given.items() if name in schema]
    for spec in schema.values():
        if spec.name in given:
            continue
        if not spec.has_default:
            raise errors.InvalidInput(f"The query string lacks the parameter {spec.name!r}, for which the class has no default.")
        values.append(_default(spec))
    return api_pb2.ClassParameterSet(parameters=values).SerializeToString(deterministic=True)


def _kind(spec: api_pb2.ClassParameterSpec) -> int:
    return spec.full_type.base_type or spec.type


def _value(spec: api_pb2.ClassParameterSpec, text: str) -> Value:
    match _kind(spec):
        case api_pb2.PARAM_TYPE_STRING:
            return Value(name=spec.name, type=api_pb2.PARAM_TYPE_STRING, string_value=text)
        case api_pb2.PARAM_TYPE_INT:
            return Value(name=spec.name, type=api_pb2.PARAM_TYPE_INT, int_value=_int(spec.name, text))
        case api_pb2.PARAM_TYPE_BOOL:
            return Value(name=spec.name, type=api_pb2.PARAM_TYPE_BOOL, bool_value=_bool(spec.name, text))
        case api_pb2.PARAM_TYPE_BYTES:
            return Value(name=spec.name, type=api_pb2.PARAM_TYPE_BYTES, bytes_value=_bytes(spec.name, text))
        case _:
            raise errors.InvalidInput(f"The parameter {spec.name!r} is of a type that a query string can't carry.")


def _default(spec: api_pb2.ClassParameterSpec) -> Value:
    match spec.WhichOneof("default_oneof"):
        case "string_default":
            return Value(name=spec.name, type=api_pb2.PARAM_TYPE_STRING, string_value=spec.string_default)
        case "int_default":
            return Value(name=spec.name, type=api_pb2.PARAM_TYPE_INT, int_value=spec.int_default)
        case "bool_default":
            return Value(name=spec.name, type=api_pb2.PARAM_TYPE_BOOL, bool_value=spec.bool_default)
        case "bytes_default":
            return Value(name=spec.name, type=api_pb2.PARAM_TYPE_BYTES, bytes_value=spec.bytes_default)
        case _:
            return Value(name=spec.name, type=api_pb2.PARAM_TYPE_PICKLE, pickle_value=spec.pickle_default)


def _int(name: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError as exc:
        raise errors.InvalidInput(f"The parameter {name!r} must be a whole number, not {text!r}.") from exc
    if not _LEAST_INT <= number <= _GREATEST_INT:
        raise errors.InvalidInput(f"The parameter {name!r} is beyond 64 bits.")
    return number


def _bool(name: str, text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise errors.InvalidInput(f"The parameter {name!r} must be true or false, not {text!r}.")
    return text.lower() in _TRUE


def _bytes(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/").replace(" ", "+") + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as exc:
        raise errors.InvalidInput(f"The parameter {name!r} must be base64.") from exc
