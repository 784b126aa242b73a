"""The schema of a state directory is the newest one, or the server does not start.

Alembic is loaded where there is something to migrate: a server that starts again is waited for.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine

from pilotlight.backup import databases
from pilotlight.core.errors import WrongState

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"


def alembic_config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


@cache
def known() -> tuple[str, ...]:
    """The names of all schemas that this version knows, the newest first: with what the files of the migrations begin."""
    return tuple(sorted((path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")), reverse=True))


def newest() -> str:
    """The name of the schema that this version works with."""
    return known()[0]


def refuse_unknown(path: Path) -> None:
    """Raise WrongState for a database that a newer Pilotlight has written; it is only read."""
    _refuse(databases.schema_of(path), str(path))


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema. Raises WrongState for one that a newer Pilotlight has written."""
    with engine.begin() as connection:
        current = _current(connection)
        if current == newest():
            return
        _refuse(current, str(engine.url.database))
        from alembic import command

        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _current(connection: Connection) -> str | None:
    if not connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").first():
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return str(row[0]) if row else None


def _refuse(current: str | None, path: str) -> None:
    if current is not None and current not in known():
        raise WrongState(
            f"the database {path} has schema {current}, which this version of Pilotlight does not know: "
            "a newer version has written it. Start that version, or name another state directory with --state."
        )
