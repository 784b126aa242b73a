"""What runs inside templates, loaded into a test's own process."""

import importlib.util
from types import ModuleType

from pilotlight.node.templates.template import PROGRAM


def loaded(name: str) -> ModuleType:
    """A new module, from the file of this name; nobody else can import it."""
    spec = importlib.util.spec_from_file_location(name, PROGRAM / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
