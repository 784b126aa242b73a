"""Statements of the hot path, compiled once: no expression is built or compiled while a call waits."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ClauseElement, Connection, Row
from sqlalchemy.engine.interfaces import Dialect


class Prepared:
    """A statement whose parameters are given as mappings by name."""

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, Sequence[str]]] = {}

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute for each row, in one call of the driver."""
        text, names = self._for(connection.dialect)
        connection.exec_driver_sql(text, [tuple(row[name] for name in names) for row in rows])

    def rows(self, connection: Connection, **values: Any) -> Sequence[Row[*tuple[Any, ...]]]:
        """Execute once; what it returns, with values as the driver has them."""
        text, names = self._for(connection.dialect)
        return connection.exec_driver_sql(text, tuple(values[name] for name in names)).all()

    def count(self, connection: Connection, **values: Any) -> int:
        """Execute once; how many rows it changed."""
        text, names = self._for(connection.dialect)
        return connection.exec_driver_sql(text, tuple(values[name] for name in names)).rowcount

    def _for(self, dialect: Dialect) -> tuple[str, Sequence[str]]:
        if (known := self._compiled.get(dialect.name)) is None:
            compiled: Any = self._statement.compile(dialect=dialect)
            known = self._compiled[dialect.name] = (str(compiled), tuple(compiled.positiontup))
        return known
