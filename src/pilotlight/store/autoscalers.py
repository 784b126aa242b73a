"""Rows of what was changed of a function's autoscaler while it is deployed."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from pilotlight.store.tables import autoscalers


def set_autoscaler(connection: Connection, function_id: str, definition_id: str, configuration: bytes) -> None:
    """Keep the changes (modal.client.AutoscalerConfiguration) made to one definition of a function, in place of earlier ones."""
    values = {"definition_id": definition_id, "configuration": configuration}
    statement = upsert(autoscalers).values(function_id=function_id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["function_id"], set_=values))


def remove(connection: Connection, function_ids: Sequence[str]) -> None:
    """Forget what was changed of these functions."""
    connection.execute(delete(autoscalers).where(autoscalers.c.function_id.in_(function_ids)))


def all_autoscalers(connection: Connection) -> list[Row[*tuple[Any, ...]]]:
    return list(connection.execute(select(autoscalers)))
