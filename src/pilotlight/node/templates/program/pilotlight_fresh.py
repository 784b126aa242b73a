"""What makes a forked process as a fresh interpreter would be: part of what a template runs, imported from beside `sitecustomize`.

As much of it as can be is done while the process still waits for what it becomes, so that no start has to wait for it. Nothing here
is trusted. Runs on every Python from 3.9 on, with the standard library alone. Sources: madvise(2), importlib.abc.MetaPathFinder.
"""

from __future__ import annotations

import ctypes
import os
import posix
import sys
import time
from typing import Any

MADV_POPULATE_WRITE = 23  # Linux 5.14
PAGE_BYTES = os.sysconf("SC_PAGESIZE")


def touch(libc: Any, ranges: list[list[int]]) -> None:
    """Have pages of our own where a start writes: else it would take a fault for each. `ranges`: (number of a page, how many)."""
    for first, count in ranges:
        # What fails (a range that is not mapped here, an older kernel) is copied when it is written.
        libc.madvise(ctypes.c_void_p(first * PAGE_BYTES), ctypes.c_size_t(count * PAGE_BYTES), MADV_POPULATE_WRITE)


def freshen() -> None:
    """Change what modules keep from their import on that must not be the same in two containers. `random` looks after itself."""
    loaded: dict[str, Any] = sys.modules  # no copy: it would write to each module's count of references
    if "numpy.random" in loaded:
        loaded["numpy.random"].seed()
    if "_ssl" in loaded:
        loaded["_ssl"].RAND_add(os.urandom(32), 32.0)  # it tells forks by their pid, which may be the same here
    if "uuid" in loaded:
        loaded["uuid"]._node = loaded["uuid"]._last_timestamp = None
    if "tempfile" in loaded:
        loaded["tempfile"]._name_sequence = loaded["tempfile"].tempdir = None
    if "platform" in loaded:
        loaded["platform"]._uname_cache = None
    if "multiprocessing.process" in loaded:
        process = loaded["multiprocessing.process"]
        process.current_process()._config["authkey"] = process.AuthenticationString(os.urandom(32))
    if "linecache" in loaded:
        loaded["linecache"].clearcache()


def begin(env: dict[str, str], cwd: str, changed: list[str]) -> None:
    """Be in this environment and directory, as if the interpreter began now. `changed`: where there are other files than before."""
    encoded = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
    os.environ.clear()
    os.environ.update(env)
    posix.environ.clear()
    posix.environ.update(encoded)
    time.tzset()  # the C library reads TZ when it is first asked for the time, and `time` at its import
    os.chdir(cwd)
    forget_directories(changed)
    if "logging" in sys.modules:
        logging: Any = sys.modules["logging"]
        logging._startTime = time.time_ns() if isinstance(logging._startTime, int) else time.time()


def forget_directories(changed: list[str]) -> None:
    """Have the import system read those directories anew that may differ from the template's: at, below or above these paths.

    By the time of its last change alone, by which it knows, one directory in place of another may look the same.
    """
    for path, finder in list(sys.path_importer_cache.items()):
        if finder is None or not os.path.isabs(path):
            del sys.path_importer_cache[path]
        elif any(_is_within(path, place) or _is_within(place, path) for place in changed):
            getattr(finder, "invalidate_caches", _nothing)()
    spaces: Any = getattr(sys.modules.get("_frozen_importlib_external"), "_NamespacePath", None)
    if hasattr(spaces, "_epoch"):
        spaces._epoch += 1
    listings: Any = getattr(sys.modules.get("importlib.metadata"), "FastPath", None)
    if clear := getattr(getattr(listings, "__new__", None), "cache_clear", None):
        clear()


def _nothing() -> None:
    """What a finder without a cache does."""


def _is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
