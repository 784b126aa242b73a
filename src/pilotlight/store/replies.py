"""What requests were answered that took something away or put something in, for as long as clients may repeat them.

A row is written in the transaction of what it tells of, so that a repetition finds both or neither, even after a crash.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.dialects.sqlite import insert

from pilotlight.store.prepared import Prepared
from pilotlight.store.tables import replies

_ADD = Prepared(
    insert(replies)
    .values({name: bindparam(name) for name in ("request_key", "reply", "at")})
    .on_conflict_do_nothing(index_elements=[replies.c.request_key])
)
_FIND = Prepared(select(replies.c.reply).where(replies.c.request_key == bindparam("request_key")))


def add(connection: Connection, request_key: str, reply: bytes, at: float) -> bool:
    """Remember an answer; False if this very request was answered before. A request without a key is always new."""
    if not request_key:
        return True
    return _ADD.count(connection, request_key=request_key, reply=reply, at=at) == 1


def find(connection: Connection, request_key: str) -> bytes | None:
    """What this very request was answered, None if it is new."""
    rows = _FIND.rows(connection, request_key=request_key) if request_key else ()
    return rows[0].reply if rows else None


def keys(connection: Connection, prefix: str) -> Sequence[str]:
    """Which requests were answered, of those whose key begins so."""
    query = select(replies.c.request_key).where(replies.c.request_key.startswith(prefix, autoescape=True))
    return connection.execute(query).scalars().all()


def remove(connection: Connection, request_key: str) -> None:
    """Forget an answer that nobody was given."""
    connection.execute(delete(replies).where(replies.c.request_key == request_key))


def remove_older(connection: Connection, before: float) -> int:
    """Forget old answers; how many."""
    return connection.execute(delete(replies).where(replies.c.at < before)).rowcount
