"""What a recipe knows of the modules that its containers import: which are imported ahead, and which are unfit for that.

Owns one invariant: both have a limit. Pure.
"""

import json
from collections.abc import Iterable, Iterator, Set
from dataclasses import replace

from pilotlight.core.containers import Recipe
from pilotlight.node.templates.channel import MESSAGE_BYTES

MODULES_BYTES = MESSAGE_BYTES - 1024  # names of modules of one template: they are told in one message
MOST_REJECTED = 256  # packages that are unfit to be imported ahead; of an image that has more nothing is learned any more


def package_of(name: str) -> str:
    """The first part of a module's name."""
    return name.partition(".")[0]


def without(recipe: Recipe, packages: Set[str]) -> Recipe:
    """The recipe without what its trials have found unfit to be imported ahead of forks."""
    modules = tuple(name for name in recipe.modules if package_of(name) not in packages)
    rejected = dict.fromkeys((*recipe.rejected, *sorted(packages)))
    return replace(recipe, modules=modules, rejected=tuple(rejected)[:MOST_REJECTED])


def fitting(names: Iterable[str]) -> Iterator[str]:
    """The first of these modules, as many as a template can be told."""
    left = MODULES_BYTES
    for name in names:
        left -= len(json.dumps(name)) + 2
        if left < 0:
            return
        yield name
