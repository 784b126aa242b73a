"""What containers may touch, rule by rule."""

import dataclasses

import pytest

from pilotlight.core import errors
from pilotlight.core.permissions import FIELDS, HARMLESS, KEYS, RULES, Container, Kind, Named, Owner, Rule, Scope, check, rule_of

MINE, THEIRS = "en-mine", "en-theirs"
CONTAINER = Container(
    task_id="ta-me",
    function="work",
    function_id="fu-work",
    app_id="ap-mine",
    environment_id=MINE,
    is_restricted=False,
    given={"vo-given", "fu-given"},
    found={"di-found", "fu-found", "ap-made"},
)
RESTRICTED = dataclasses.replace(CONTAINER, is_restricted=True)
USES, CHANGES = Rule(Scope.OBJECTS), Rule(Scope.OBJECTS, changes=True)
FOR_INPUTS = {
    *("ClientHello", "AuthTokenGet", "BlobCreate", "BlobGet", "FunctionBlobGet", "ContainerStop", "TaskCurrentInputs"),
    *("FunctionCallPutDataOut", "VolumeCommit", "VolumeReload"),
}


def allowed(rule: Rule, named: Named, container: Container = CONTAINER) -> bool:
    try:
        check("SomeRpc", rule, container, named)
    except errors.NotAllowed as error:
        assert named.object_id in str(error)
        assert container.task_id in str(error)
        return False
    return True


def volume(object_id: str, environment_id: str, *, is_changed: bool = False) -> Named:
    return Named(Kind.VOLUME, object_id, Owner(environment_id), is_changed)


def test_what_is_in_its_environment_is_a_containers_to_use_and_to_change() -> None:
    assert allowed(USES, volume("vo-1", MINE))
    assert allowed(CHANGES, volume("vo-1", MINE, is_changed=True))


@pytest.mark.parametrize("kind", Kind)
def test_an_id_of_another_environment_opens_nothing(kind: Kind) -> None:
    for environment in (THEIRS, ""):  # "": what is left of something whose app is gone
        assert not allowed(USES, Named(kind, "xx-stolen", Owner(environment), is_changed=False))


def test_what_was_given_or_found_may_be_used_but_not_changed() -> None:
    for object_id in ("vo-given", "di-found"):
        assert allowed(USES, volume(object_id, THEIRS))
        assert not allowed(CHANGES, volume(object_id, THEIRS, is_changed=True))


@pytest.mark.parametrize("function_id", ["fu-given", "fu-found"])
def test_a_function_opens_its_calls_and_what_is_bound_from_it(function_id: str) -> None:
    behind = Owner(THEIRS, ("fu-bound", function_id))
    assert allowed(USES, Named(Kind.CALL, "fc-1", behind, is_changed=False))
    assert allowed(USES, Named(Kind.FUNCTION, "fu-bound", behind, is_changed=False))
    assert not allowed(USES, Named(Kind.CALL, "fc-1", Owner(THEIRS, ("fu-other",)), is_changed=False))
    assert not allowed(USES, Named(Kind.APP, "ap-theirs", Owner(THEIRS), is_changed=False))


def test_a_container_speaks_only_for_itself() -> None:
    rule = Rule(Scope.TASK)
    assert allowed(rule, Named(Kind.TASK, "ta-me", Owner(MINE), is_changed=False))
    assert allowed(rule, Named(Kind.CALL, "fc-1", Owner(MINE, ("fu-work",)), is_changed=False))
    assert not allowed(rule, Named(Kind.TASK, "ta-other", Owner(MINE), is_changed=False))
    assert not allowed(rule, Named(Kind.CALL, "fc-1", Owner(MINE, ("fu-other", "fu-work")), is_changed=False))


def test_the_output_that_a_container_reads_is_of_its_app_or_of_one_that_it_made() -> None:
    rule = Rule(Scope.LOGS)
    assert allowed(rule, Named(Kind.APP, "ap-mine", Owner(MINE), is_changed=False))
    assert allowed(rule, Named(Kind.APP, "ap-made", Owner(MINE), is_changed=False))
    assert not allowed(rule, Named(Kind.APP, "ap-other", Owner(MINE), is_changed=False))
    assert not allowed(rule, Named(Kind.CALL, "fc-1", Owner(THEIRS, ("fu-x",)), is_changed=False))


def test_what_has_no_rule_is_refused() -> None:
    with pytest.raises(errors.NotAllowed, match="SandboxCreate"):
        rule_of("SandboxCreate", CONTAINER)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.scope is Scope.PERSON])
def test_what_is_a_persons_business_needs_a_token(name: str) -> None:
    with pytest.raises(errors.NotAllowed, match=f"{name}.*token"):
        rule_of(name, CONTAINER)


def test_a_restricted_container_may_do_what_its_inputs_need_and_nothing_else() -> None:
    for name in RULES:
        if name in FOR_INPUTS:
            assert rule_of(name, RESTRICTED) is RULES[name]
        else:
            with pytest.raises(errors.NotAllowed, match=name):
                rule_of(name, RESTRICTED)


def test_no_field_is_both_checked_and_harmless() -> None:
    assert not HARMLESS.keys() & (FIELDS.keys() | KEYS.keys())
    assert all(HARMLESS.values())
