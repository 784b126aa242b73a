"""Which containers may be forked from a template, and which need an interpreter of their own.

Owns one invariant: what an interpreter, or a module that is loaded already, has read at its start is the same in the container that
is forked. Pure.
"""

import json
from collections.abc import Collection, Mapping

from pilotlight.core.containers import ContainerSpec, Recipe

# Read by the interpreter, the C library or the loader before any of our code runs, or by native code at import.
_PREFIXES = (
    *("PYTHON", "LD_", "LC_", "MALLOC_", "GLIBC_", "OPENSSL_"),
    *("OMP_", "OPENBLAS_", "MKL_", "KMP_", "GOTO_", "BLIS_", "NUMEXPR_", "VECLIB_", "RAYON_"),
    *("GOMP_", "NPY_", "ARROW_"),
)
_NAMES = ("LANG", "LANGUAGE", "LOCPATH", "NLSPATH")
MAX_ENVIRONMENT_BYTES = 64 * 1024  # it is handed over in one message


def misfit(spec: ContainerSpec, recipe: Recipe, read: Collection[str] = ()) -> str:
    """Why a container can't be forked from a template by its recipe whose imports have read these variables; empty if it can."""
    if spec.args != recipe.args:
        return "its program is another one"
    if spec.user not in ("", "root", "0", "0:0", "root:root"):
        return "it does not run as root"
    if spec.upper is not None:
        return "what it writes becomes a layer"
    if spec.hooks or any(bind.is_device for bind in spec.binds):
        return "it is given devices, by hooks that an OCI runtime calls"
    if len(json.dumps(dict(spec.env))) > MAX_ENVIRONMENT_BYTES:
        return "its environment is too large"
    if differing := sorted(name for name in _differing(spec.env, recipe.env) if _is_read_early(name, read)):
        return f"its interpreter would read {', '.join(differing)} at its start"
    return ""


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> set[str]:
    return {name for name in {*one, *other} if one.get(name) != other.get(name)}


def _is_read_early(name: str, read: Collection[str]) -> bool:
    return name in read or name in _NAMES or name.startswith(_PREFIXES)
