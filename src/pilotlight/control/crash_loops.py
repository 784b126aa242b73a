"""Functions whose containers die one after the other: they are started ever more rarely while nobody waits for them, and show in
`pilotlight status`.

What waits is not kept back: an input has a limit of its own for the containers that die of it, and so have starts that fail.
"""

from pilotlight.control.live import Pool
from pilotlight.core import retries


def note_death(pool: Pool, why: str, lived_s: float, now: float) -> str:
    """Count a container that ended unasked; returns what to tell the program's author, empty for nothing.

    `lived_s`: since it was ready, 0 for one that never was. `now` is on the loop's clock.
    """
    pool.crashes = 1 if lived_s > retries.STABLE_S else pool.crashes + 1
    pool.last_failure = why
    wait_s = retries.crash_backoff_s(pool.crashes)
    pool.calm_until = now + wait_s
    if not is_crash_loop(pool):
        return ""
    return f"{pool.crashes} containers in a row died; while nothing waits for one, the next is started in {wait_s:g} s.\n"


def is_crash_loop(pool: Pool) -> bool:
    """Whether so many have died without one success in between that it is no accident."""
    return pool.crashes >= retries.CRASH_LOOP


def forget_deaths(pool: Pool) -> None:
    """There is a new version: it has done nothing wrong yet."""
    pool.startup_failures = pool.startup_faults = pool.crashes = 0
    pool.not_before = pool.calm_until = 0.0


def not_before(pool: Pool) -> float:
    """No container is started before this time, on the loop's clock."""
    return pool.not_before if pool.waiting else max(pool.not_before, pool.calm_until)
