import pytest
from modal_proto import api_pb2

from pilotlight.control.functions import (
    data_of,
    handle_of,
    highest_ranked,
    refuse_unbuilt,
    retry_policy_of,
    schedule_of,
    with_options,
)
from pilotlight.core import errors


def test_a_plain_definition_is_taken_as_it_is() -> None:
    function = api_pb2.Function(function_name="f", timeout_secs=5)
    assert highest_ranked(api_pb2.FunctionCreateRequest(function=function)) == function


def test_the_best_rank_wins_and_shared_fields_are_laid_over_it() -> None:
    ranked = [
        api_pb2.FunctionData.RankedFunction(rank=1, function=api_pb2.Function(function_name="f", timeout_secs=1)),
        api_pb2.FunctionData.RankedFunction(rank=0, function=api_pb2.Function(function_name="f", timeout_secs=2)),
    ]
    data = api_pb2.FunctionData(ranked_functions=ranked, warm_pool_size=3)
    chosen = highest_ranked(api_pb2.FunctionCreateRequest(function_data=data))
    assert (chosen.timeout_secs, chosen.warm_pool_size) == (2, 3)


def test_a_definition_without_a_ranked_function_is_refused() -> None:
    with pytest.raises(errors.InvalidInput):
        highest_ranked(api_pb2.FunctionCreateRequest(function_data=api_pb2.FunctionData()))


def test_the_answer_carries_the_definition_as_its_only_ranked_one() -> None:
    function = api_pb2.Function(function_name="f", timeout_secs=5, retry_policy={"retries": 2}, concurrency_limit=4)
    function.method_definitions["m"].function_name = "C.m"
    data = data_of(function)
    assert [entry.function for entry in data.ranked_functions] == [function]
    assert data.concurrency_limit == 4
    assert highest_ranked(api_pb2.FunctionCreateRequest(function_data=data)) == function


def test_methods_have_handles_of_their_own() -> None:
    function = api_pb2.Function(function_name="C.*")
    function.method_definitions["m"].function_name = "C.m"
    handle = handle_of("fu-1", "ap-1", function, "de-1")
    method = handle.method_handle_metadata["m"]
    assert (method.use_method_name, method.is_method, method.definition_id) == ("m", True, "de-1")


def test_options_change_only_what_they_name() -> None:
    function = api_pb2.Function(timeout_secs=5, secret_ids=["st-1"], mount_ids=["mo-1"], max_concurrent_inputs=2)
    options = api_pb2.FunctionOptions(concurrency_limit=7, secret_ids=["st-2"], mount_ids=["mo-2"])
    changed = with_options(function, options)
    assert changed.concurrency_limit == changed.autoscaler_settings.max_containers == 7
    assert list(changed.secret_ids) == ["st-1", "st-2"] and list(changed.mount_ids) == ["mo-1", "mo-2"]
    assert changed.timeout_secs == 5 and changed.max_concurrent_inputs == 2
    assert list(function.secret_ids) == ["st-1"] and not function.concurrency_limit


def test_options_may_replace_secrets() -> None:
    options = api_pb2.FunctionOptions(replace_secret_ids=True, secret_ids=["st-2"], timeout_secs=0)
    changed = with_options(api_pb2.Function(secret_ids=["st-1"], timeout_secs=5), options)
    assert list(changed.secret_ids) == ["st-2"] and changed.timeout_secs == 0


def test_retries_come_in_milliseconds() -> None:
    policy = retry_policy_of(api_pb2.Function(retry_policy={"retries": 2, "initial_delay_ms": 500}))
    assert (policy.retries, policy.initial_delay_s, policy.backoff_coefficient, policy.max_delay_s) == (2, 0.5, 1.0, 60.0)


@pytest.mark.parametrize(
    ("function", "feature"),
    [
        (api_pb2.Function(is_server=True, is_sessioned=True), "sticky sessions"),
        (api_pb2.Function(http_config={"port": 8000}), "modal.experimental.http_server"),
        (api_pb2.Function(is_builder_function=True), "Image.run_function"),
    ],
)
def test_what_is_not_built_is_named(function: api_pb2.Function, feature: str) -> None:
    with pytest.raises(errors.NotBuilt, match=feature.replace(".", r"\.")):
        refuse_unbuilt(function)


def test_a_schedule_is_found_beside_the_definition_and_in_it() -> None:
    schedule = api_pb2.Schedule(period={"hours": 1})
    assert schedule_of(api_pb2.FunctionCreateRequest(schedule=schedule), api_pb2.Function()) == schedule
    assert schedule_of(api_pb2.FunctionCreateRequest(), api_pb2.Function(schedule=schedule)) == schedule
    assert schedule_of(api_pb2.FunctionCreateRequest(), api_pb2.Function()) is None
