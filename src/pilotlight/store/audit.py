"""Rows of the audit log."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select

from pilotlight.core.audit import Event
from pilotlight.store.tables import audit

TRIMMED_EVERY = 1_000  # events


def add(connection: Connection, event: Event, keep: int) -> None:
    """Append an event; its id is the next one. Now and then what is older than the newest so many goes: whoever makes events
    quickly does not fill the disk until the next sweep."""
    added = connection.execute(
        insert(audit).values(
            at=event.at,
            actor=event.actor,
            address=event.address,
            action=event.action,
            object=event.object,
            outcome=event.outcome,
        )
    )
    assert added.inserted_primary_key is not None
    if (event_id := added.inserted_primary_key[0]) % TRIMMED_EVERY == 0:
        connection.execute(delete(audit).where(audit.c.event_id <= event_id - keep))


def newest(connection: Connection, since: float, after_id: int, limit: int) -> Sequence[Row[*tuple[Any, ...]]]:
    """The newest events, oldest of them first: from a time on, and after one that is known."""
    found = connection.execute(
        select(audit.c.event_id, audit.c.at, audit.c.actor, audit.c.address, audit.c.action, audit.c.object, audit.c.outcome)
        .where(audit.c.event_id > after_id, audit.c.at >= since)
        .order_by(audit.c.event_id.desc())
        .limit(limit)
    ).all()
    return found[::-1]


def remove_old(connection: Connection, before: float, keep: int) -> int:
    """Forget events from before a time, and all but the newest so many; how many."""
    last = connection.execute(select(func.max(audit.c.event_id))).scalar_one() or 0
    return connection.execute(delete(audit).where((audit.c.at < before) | (audit.c.event_id <= last - keep))).rowcount
