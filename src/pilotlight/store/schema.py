"""The schema of a state directory is the newest one, or the server does not start."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from pilotlight.backup import databases
from pilotlight.core.errors import WrongState

MIGRATIONS = Path(__file__).parent / "migrations"


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


@cache
def known() -> tuple[str, ...]:
    """The names of all schemas that this version knows, the newest first."""
    return tuple(script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions())


def newest() -> str:
    """The name of the schema that this version works with."""
    return known()[0]


def refuse_unknown(path: Path) -> None:
    """Raise WrongState for a database that a newer Pilotlight has written; it is only read."""
    _refuse(databases.schema_of(path), str(path))


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema. Raises WrongState for one that a newer Pilotlight has written."""
    config = alembic_config()
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == newest():
            return
        _refuse(current, str(engine.url.database))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _refuse(current: str | None, path: str) -> None:
    if current is not None and current not in known():
        raise WrongState(
            f"the database {path} has schema {current}, which this version of Pilotlight does not know: "
            "a newer version has written it. Start that version, or name another state directory with --state."
        )
