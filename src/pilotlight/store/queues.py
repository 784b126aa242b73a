"""Items of queues, in the order of `item_seq`, which whoever puts them assigns."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select

from pilotlight.store.prepared import Prepared
from pilotlight.store.tables import queue_items

_I = queue_items.c

_COLUMNS = (_I.item_seq, _I.queue_id, _I.partition, _I.value, _I.expires_at)
_ADD = Prepared(insert(queue_items).values({column.name: bindparam(column.name) for column in _COLUMNS}))
_TAKE = Prepared(delete(queue_items).where(_I.item_seq == bindparam("item_seq")).returning(*_COLUMNS))


@dataclass(frozen=True, slots=True)
class Item:
    """One item, with all that is needed to put it back."""

    item_seq: int
    queue_id: str
    partition: bytes
    value: bytes
    expires_at: float


def newest_seq(connection: Connection) -> int:
    """The highest number in use, 0 if there is none."""
    return connection.execute(select(func.max(_I.item_seq))).scalar_one() or 0


def add(connection: Connection, items: Sequence[Item]) -> None:
    """Insert items: new ones, or those that were taken and go back."""
    _ADD.run(connection, [_values(item) for item in items])


def outline(connection: Connection, queue_id: str, partition: bytes) -> Sequence[Row[*tuple[Any, ...]]]:
    """Number, size and expiry of each item of a partition, in order."""
    return connection.execute(
        select(_I.item_seq, func.length(_I.value).label("size_bytes"), _I.expires_at)
        .where(_I.queue_id == queue_id, _I.partition == partition)
        .order_by(_I.item_seq)
    ).all()


def take(connection: Connection, seqs: Sequence[int]) -> list[Item]:
    """Remove items and return them in the same order; those that are gone are left out."""
    return [Item(*row) for seq in seqs for row in _TAKE.rows(connection, item_seq=seq)]


def peek(connection: Connection, seqs: Collection[int]) -> Sequence[Row[*tuple[Any, ...]]]:
    """Number and value of items, in order."""
    return connection.execute(select(_I.item_seq, _I.value).where(_I.item_seq.in_(seqs)).order_by(_I.item_seq)).all()


def clear(connection: Connection, queue_id: str, partition: bytes | None, up_to: int) -> None:
    """Remove items up to a number, of one partition or of all (None)."""
    statement = delete(queue_items).where(_I.queue_id == queue_id, _I.item_seq <= up_to)
    connection.execute(statement if partition is None else statement.where(_I.partition == partition))


def sizes(connection: Connection, queue_ids: Collection[str], now: float) -> Sequence[Row[*tuple[Any, ...]]]:
    """Queue, partition and number of items, of all partitions that have not expired."""
    return connection.execute(
        select(_I.queue_id, _I.partition, func.count().label("items"))
        .where(_I.queue_id.in_(queue_ids))
        .group_by(_I.queue_id, _I.partition)
        .having(func.max(_I.expires_at) > now)
    ).all()


def remove_expired(connection: Connection, now: float) -> int:
    """Remove partitions into which nothing was put for as long as was asked for; how many items."""
    expired = (
        select(_I.queue_id, _I.partition).group_by(_I.queue_id, _I.partition).having(func.max(_I.expires_at) <= now).subquery()
    )
    removed = 0
    for queue_id, partition in connection.execute(select(expired.c.queue_id, expired.c.partition)).all():
        statement = delete(queue_items).where(_I.queue_id == queue_id, _I.partition == partition)
        removed += connection.execute(statement).rowcount
    return removed


def _values(item: Item) -> dict[str, Any]:
    return {
        "item_seq": item.item_seq,
        "queue_id": item.queue_id,
        "partition": item.partition,
        "value": item.value,
        "expires_at": item.expires_at,
    }
