"""What a template notices of what modules do while it imports them."""

import importlib.util
import os
from types import ModuleType

import pytest

from pilotlight.node.templates.template import PROGRAM


@pytest.fixture
def trial() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pilotlight_trial", PROGRAM / "pilotlight_trial.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_variables_are_noticed_however_they_are_read(trial: ModuleType) -> None:
    with trial.ReadNames() as read:
        os.environ.get("ONE")
        os.getenv("TWO")
        os.environb.get(b"THREE")
        os.getenvb(b"FOUR")
        for odd in (5, None, []):
            with pytest.raises(TypeError):
                os.environ[odd]  # type: ignore[index]
    os.environ.get("FIVE")
    assert sorted(read.names) == ["FOUR", "ONE", "THREE", "TWO"]
