"""Rows of proxy tokens, and of the environments that they are valid in."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from pilotlight.store.tables import proxy_token_environments, proxy_tokens


def all_tokens(connection: Connection) -> Sequence[Row[*tuple[Any, ...]]]:
    return connection.execute(select(*proxy_tokens.c)).all()


def all_environments(connection: Connection) -> Sequence[Row[*tuple[Any, ...]]]:
    """(token_id, environment_id) of all."""
    return connection.execute(select(*proxy_token_environments.c)).all()


def add(connection: Connection, row: dict[str, Any]) -> None:
    connection.execute(upsert(proxy_tokens).on_conflict_do_nothing(), row)


def change(connection: Connection, token_id: str, environment_ids: Sequence[str], **values: Any) -> None:
    """Change columns of a token, and name all environments that it is valid in."""
    connection.execute(update(proxy_tokens).where(proxy_tokens.c.token_id == token_id).values(**values))
    connection.execute(delete(proxy_token_environments).where(proxy_token_environments.c.token_id == token_id))
    if environment_ids:
        rows = [{"token_id": token_id, "environment_id": environment_id} for environment_id in environment_ids]
        connection.execute(insert(proxy_token_environments), rows)


def remove(connection: Connection, token_id: str) -> None:
    connection.execute(delete(proxy_tokens).where(proxy_tokens.c.token_id == token_id))
    connection.execute(delete(proxy_token_environments).where(proxy_token_environments.c.token_id == token_id))
