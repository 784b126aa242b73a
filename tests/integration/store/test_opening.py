"""Databases of other versions, damaged ones, and what is done before anything is changed."""

import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import structlog.testing
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from pilotlight.backup import databases
from pilotlight.core.errors import WrongState
from pilotlight.store import opening
from pilotlight.store.database import open_engine
from pilotlight.store.opening import open_databases
from pilotlight.store.schema import alembic_config, known, newest

PAGE_BYTES = 4096


class Opened:
    """The databases of a directory, opened as a server does."""

    def __init__(self, state: Path) -> None:
        self.notes: list[str] = []
        self.engines: tuple[Engine, ...] = open_databases(
            state / "pilotlight.db", state / "output.db", "NORMAL", state / "run", self.notes.append
        )
        for engine in self.engines:
            engine.dispose()


def older(path: Path, schema: str) -> None:
    """A database as the version with that schema left it, with a token in it."""
    engine = open_engine(path, "NORMAL")
    with engine.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, schema)
        connection.exec_driver_sql("INSERT INTO tokens VALUES ('ak-1', 'first', 'hash', 1.0, NULL, NULL)")
    engine.dispose()


def names(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM tokens")]


def damage(path: Path) -> None:
    """Make a sound database of many pages, then lose some in the middle."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY, payload BLOB)")
        connection.executemany("INSERT INTO numbers VALUES (?, zeroblob(900))", [(number,) for number in range(2000)])
        connection.commit()
    assert databases.damage(path) == []
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // PAGE_BYTES * PAGE_BYTES)
        file.write(b"\xff" * PAGE_BYTES)


def test_schemas_are_known_by_the_names_that_alembic_gives_them() -> None:
    assert known() == tuple(script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions())


def test_a_server_loads_nothing_that_its_start_need_not_wait_for() -> None:
    loads = "import sys, pilotlight.main, pilotlight.server; print(*({'alembic', 'aiohttp'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_new_state_has_the_newest_schema_and_nothing_to_say(tmp_path: Path) -> None:
    assert Opened(tmp_path).notes == []
    assert databases.schema_of(tmp_path / "pilotlight.db") == newest()
    assert Opened(tmp_path).notes == []
    assert not (tmp_path / opening.COPIES_DIR).exists()


def test_nobody_else_reads_a_database_even_one_that_they_could(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for _ in range(2):
        Opened(tmp_path)
        files = [path for path in tmp_path.iterdir() if path.is_file()]
        assert {path.suffix for path in files} >= {".db"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        for path in files:
            path.chmod(0o644)


@pytest.mark.parametrize("schema", known()[1:])
def test_an_older_schema_is_brought_to_the_newest_and_a_copy_is_kept(tmp_path: Path, schema: str) -> None:
    path = tmp_path / "pilotlight.db"
    older(path, schema)
    [note] = Opened(tmp_path).notes
    assert (databases.schema_of(path), names(path)) == (newest(), ["first"])
    [copy] = (tmp_path / opening.COPIES_DIR).iterdir()
    assert str(copy) in note and schema in note
    assert (databases.schema_of(copy), names(copy), stat.S_IMODE(copy.stat().st_mode)) == (schema, ["first"], 0o600)
    # What the note says is what one can do.
    for name in ("pilotlight.db-wal", "pilotlight.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    copy.rename(path)
    assert (databases.schema_of(path), names(path)) == (schema, ["first"])


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pilotlight.db"
    older(path, "0001")

    def half(engine: Engine) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0002'")
            raise RuntimeError("power")

    monkeypatch.setattr(opening, "migrate", half)
    with pytest.raises(RuntimeError, match="power"):
        Opened(tmp_path)
    assert databases.schema_of(path) == "0001"


def test_no_room_for_the_copy_no_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pilotlight.db"
    older(path, "0001")
    monkeypatch.setattr(opening, "ROOM_FACTOR", 1e12)
    with pytest.raises(WrongState, match="less room than that"):
        Opened(tmp_path)
    assert databases.schema_of(path) == "0001"


def test_a_newer_schema_is_refused_by_name_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "pilotlight.db"
    Opened(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(WrongState, match=r"9999.*newer version"):
        Opened(tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("name", "next_step"), [("pilotlight.db", "pilotlight restore FILE"), ("output.db", "Move it away")])
def test_a_damaged_database_is_named_with_what_to_do(tmp_path: Path, name: str, next_step: str) -> None:
    Opened(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(WrongState, match="is damaged") as refused:
        Opened(tmp_path)
    assert str(tmp_path / name) in str(refused.value) and next_step in str(refused.value)


def test_what_is_no_database_is_damaged_too(tmp_path: Path) -> None:
    (tmp_path / "pilotlight.db").write_bytes(b"words, words" * 1000)
    with pytest.raises(WrongState, match="file is not a database"):
        Opened(tmp_path)


def test_a_large_one_is_looked_at_to_its_end_while_the_start_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.db"
    damage(path)
    monkeypatch.setattr(opening, "CHECK_LIMIT_S", 0.0)
    monkeypatch.setattr(databases, "STEPS_BETWEEN_LOOKS", 1)
    monkeypatch.setattr(opening.threading.Thread, "start", lambda thread: thread.run())
    with structlog.testing.capture_logs() as said:
        opening.refuse_damaged(path, advice="Restore it.")
    assert [line["event"] for line in said] == ["database_check_goes_on", "database_damaged"]
    assert said[-1]["log_level"] == "error" and "Restore it." in said[-1]["message"]


def test_a_server_that_is_started_again_does_not_look_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    Opened(tmp_path)
    looks: list[Path] = []
    monkeypatch.setattr(opening, "refuse_damaged", lambda path, advice: looks.append(path))
    Opened(tmp_path)
    assert looks == []
    (tmp_path / "run" / opening.CHECKED_FILE).write_text("1")  # by another supervisor, in another life
    Opened(tmp_path)
    assert looks == [tmp_path / "pilotlight.db", tmp_path / "output.db"]


def test_outputs_of_an_older_schema_stay_and_when_they_started_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "pilotlight.db"
    older(path, "0002")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO outputs VALUES ('in-1', 'fc-1', 0, 1, x'00', 1, 'ta-1', 5.0)")
        connection.commit()
    Opened(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.execute("SELECT input_id, created_at, started_at FROM outputs")) == [("in-1", 5.0, None)]
