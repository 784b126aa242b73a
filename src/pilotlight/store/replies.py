"""What requests were answered that took something away or put something in, for as long as clients may repeat them.

A row is written in the transaction of what it tells of, so that a repetition finds both or neither, even after a crash.
"""

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.sqlite import insert

from pilotlight.store.tables import replies


def add(connection: Connection, request_key: str, reply: bytes, at: float) -> bool:
    """Remember an answer; False if this very request was answered before. A request without a key is always new."""
    if not request_key:
        return True
    statement = insert(replies).on_conflict_do_nothing(index_elements=[replies.c.request_key])
    return connection.execute(statement, {"request_key": request_key, "reply": reply, "at": at}).rowcount == 1


def find(connection: Connection, request_key: str) -> bytes | None:
    """What this very request was answered, None if it is new."""
    query = select(replies.c.reply).where(replies.c.request_key == request_key)
    return connection.execute(query).scalar_one_or_none() if request_key else None


def remove(connection: Connection, request_key: str) -> None:
    """Forget an answer that nobody was given."""
    connection.execute(delete(replies).where(replies.c.request_key == request_key))


def remove_older(connection: Connection, before: float) -> int:
    """Forget old answers; how many."""
    return connection.execute(delete(replies).where(replies.c.at < before)).rowcount
