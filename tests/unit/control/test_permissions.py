"""A container that ends while it is looked at has nothing any more."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from modal_proto import api_pb2

from pilotlight.control.permissions import Permissions
from pilotlight.core import errors
from pilotlight.core.permissions import Kind, Owner


@pytest.mark.parametrize("ends", [False, True])
def test_who_ends_while_its_app_is_looked_up_is_refused_and_forgotten(ends: bool) -> None:
    function = SimpleNamespace(app_id="ap-1", function_id="fu-1", tag="f")
    tasks: dict[str, Any] = {"ta-1": SimpleNamespace(pool=SimpleNamespace(function=function), definition=api_pb2.Function())}

    class Owners:
        async def of(self, kind: Kind, object_id: str) -> Owner:
            if ends:
                del tasks["ta-1"]
                permissions.task_ended("ta-1")
            return Owner("en-1")

    nothing: Any = None
    permissions = Permissions(
        found_database=nothing,
        tasks=tasks,
        environments=nothing,
        owners=Owners(),
        may_leave_environment=True,  # type: ignore[arg-type]
    )
    if ends:
        with pytest.raises(errors.NotAllowed, match="has ended"):
            asyncio.run(permissions.container("ta-1"))
    else:
        assert asyncio.run(permissions.container("ta-1")).environment_id == "en-1"
    assert ("ta-1" in permissions._found) is not ends
