"""Rows of tokens: only hashes of secrets are kept."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update
from sqlalchemy.dialects.sqlite import insert

from pilotlight.store.tables import tokens


def all_tokens(connection: Connection) -> Sequence[Row[*tuple[Any, ...]]]:
    """Every token, oldest first, revoked ones too."""
    return connection.execute(
        select(
            tokens.c.token_id,
            tokens.c.name,
            tokens.c.secret_hash,
            tokens.c.created_at,
            tokens.c.revoked_at,
            tokens.c.last_used_at,
        ).order_by(tokens.c.created_at)
    ).all()


def add(connection: Connection, token_id: str, name: str, secret_hash: str, created_at: float) -> None:
    """Insert a token; one that is there already is left alone."""
    connection.execute(
        insert(tokens)
        .values(token_id=token_id, name=name, secret_hash=secret_hash, created_at=created_at)
        .on_conflict_do_nothing(index_elements=[tokens.c.token_id])
    )


def revoke(connection: Connection, token_id: str, at: float) -> None:
    """Mark a token as revoked, once."""
    connection.execute(update(tokens).where(tokens.c.token_id == token_id, tokens.c.revoked_at.is_(None)).values(revoked_at=at))


def set_used(connection: Connection, used_at: Mapping[str, float]) -> None:
    """Write down when tokens were last used."""
    if not used_at:
        return
    connection.execute(
        update(tokens).where(tokens.c.token_id == bindparam("id")).values(last_used_at=bindparam("at")),
        [{"id": token_id, "at": at} for token_id, at in used_at.items()],
    )
