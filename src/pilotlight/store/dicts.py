"""Entries of dicts. One that nobody used for long is as good as gone, even before it is removed: `cutoff` says since when."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from pilotlight.store.prepared import Prepared
from pilotlight.store.tables import dict_entries

_E = dict_entries.c
_INSERT = insert(dict_entries).values({name: bindparam(name) for name in ("dict_id", "key", "value", "used_at")})
_PUT = Prepared(
    _INSERT.on_conflict_do_update(
        index_elements=[_E.dict_id, _E.key], set_={"value": _INSERT.excluded.value, "used_at": _INSERT.excluded.used_at}
    )
)
_GET = Prepared(
    select(_E.value, _E.used_at).where(
        _E.dict_id == bindparam("dict_id"), _E.key == bindparam("key"), _E.used_at > bindparam("cutoff")
    )
)


def put(connection: Connection, dict_id: str, entries: Sequence[tuple[bytes, bytes]], at: float) -> None:
    """Set entries."""
    _PUT.run(connection, _values(dict_id, entries, at))


def put_missing(connection: Connection, dict_id: str, entries: Sequence[tuple[bytes, bytes]], at: float, cutoff: float) -> int:
    """Set those entries that are not there yet; how many."""
    statement = insert(dict_entries)
    statement = statement.on_conflict_do_update(
        index_elements=[_E.dict_id, _E.key],
        set_={"value": statement.excluded.value, "used_at": statement.excluded.used_at},
        where=_E.used_at <= cutoff,
    )
    return connection.execute(statement, _values(dict_id, entries, at)).rowcount


def get(connection: Connection, dict_id: str, key: bytes, cutoff: float) -> Row[*tuple[Any, ...]] | None:
    """Value and time of last use of an entry."""
    rows = _GET.rows(connection, dict_id=dict_id, key=key, cutoff=cutoff)
    return rows[0] if rows else None


def used_at(connection: Connection, dict_id: str, key: bytes, cutoff: float) -> float | None:
    """When an entry was last used, None if there is none."""
    query = select(_E.used_at).where(_E.dict_id == dict_id, _E.key == key, _E.used_at > cutoff)
    return connection.execute(query).scalar_one_or_none()


def pop(connection: Connection, dict_id: str, key: bytes, cutoff: float) -> bytes | None:
    """Remove an entry and return its value."""
    statement = delete(dict_entries).where(_E.dict_id == dict_id, _E.key == key, _E.used_at > cutoff).returning(_E.value)
    return connection.execute(statement).scalar_one_or_none()


def touch(connection: Connection, dict_id: str, key: bytes, at: float) -> None:
    """Note that an entry was read."""
    connection.execute(update(dict_entries).where(_E.dict_id == dict_id, _E.key == key, _E.used_at < at).values(used_at=at))


def count(connection: Connection, dict_id: str, cutoff: float, limit: int) -> int:
    """How many entries there are, at most `limit`."""
    some = select(_E.key).where(_E.dict_id == dict_id, _E.used_at > cutoff).limit(limit).subquery()
    return connection.execute(select(func.count()).select_from(some)).scalar_one()


def page(
    connection: Connection, dict_id: str, after: bytes | None, cutoff: float, limit: int, *, with_values: bool
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Entries (key, value or None) in the order of keys, after that key."""
    query = select(_E.key, _E.value) if with_values else select(_E.key)
    query = query.where(_E.dict_id == dict_id, _E.used_at > cutoff)
    if after is not None:
        query = query.where(_E.key > after)
    return connection.execute(query.order_by(_E.key).limit(limit)).all()


def clear(connection: Connection, dict_id: str) -> None:
    """Remove all entries of a dict."""
    connection.execute(delete(dict_entries).where(_E.dict_id == dict_id))


def remove_unused(connection: Connection, cutoff: float) -> int:
    """Remove entries of all dicts that were not used since; how many."""
    return connection.execute(delete(dict_entries).where(_E.used_at <= cutoff)).rowcount


def _values(dict_id: str, entries: Sequence[tuple[bytes, bytes]], at: float) -> list[dict[str, Any]]:
    return [{"dict_id": dict_id, "key": key, "value": value, "used_at": at} for key, value in entries]
