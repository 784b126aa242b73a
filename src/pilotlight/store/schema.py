"""The schema of a state directory is the newest one, or the server does not start."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from pilotlight.core.errors import WrongState

MIGRATIONS = Path(__file__).parent / "migrations"


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema. Raises WrongState for one that a newer Pilotlight has written."""
    config = alembic_config()
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == head:
            return
        if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
            raise WrongState(
                f"the database {engine.url.database} has schema {current}, which this version of Pilotlight does not know: "
                "a newer version has written it. Start that version, or name another state directory with --state."
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
