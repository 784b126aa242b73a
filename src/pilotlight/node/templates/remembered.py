"""Which recipes were used last, kept over restarts of the agent, so that their templates are there before the first call.

Owns one invariant: a file that can't be read, or names what is gone, costs a slower start and nothing else.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import structlog

from pilotlight.core.containers import Recipe

log = structlog.get_logger()

MOST = 8  # recipes


def load(path: Path) -> list[Recipe]:
    """Those that can still be made, the most recently used first. Reads the disk."""
    try:
        entries = json.loads(path.read_text())
        recipes = [_recipe(entry) for entry in entries[:MOST]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("templates.not_remembered", path=str(path), error=repr(error))
        return []
    return [recipe for recipe in recipes if all(layer.is_dir() for layer in recipe.layers)]


def save(path: Path, recipes: Iterable[Recipe]) -> None:
    """Write them, the most recently used first. An image's environment is nobody else's business."""
    entries = [
        {
            "layers": [str(layer) for layer in recipe.layers],
            "args": list(recipe.args),
            "env": dict(recipe.env),
            "modules": list(recipe.modules),
            "name": recipe.name,
            "rejected": list(recipe.rejected),
        }
        for recipe in list(recipes)[:MOST]
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(entries))
    draft.replace(path)


def _recipe(entry: dict[str, Any]) -> Recipe:
    env = {str(name): str(value) for name, value in entry["env"].items()}
    return Recipe(
        tuple(map(Path, entry["layers"])),
        tuple(entry["args"]),
        env,
        tuple(entry["modules"]),
        str(entry.get("name", "")),
        tuple(entry.get("rejected", ())),
    )
