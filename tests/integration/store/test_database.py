"""The one writer: what shares a transaction, and what does not."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog.testing
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection, Integer, MetaData, Table, insert, select, text
from sqlalchemy.exc import IntegrityError

from pilotlight.core.errors import WrongState
from pilotlight.store import tables
from pilotlight.store.database import READERS, Database, create_missing, open_engine
from pilotlight.store.schema import migrate

metadata = MetaData()
numbers = Table("numbers", metadata, Column("number", Integer, primary_key=True))


def add(number: int) -> Callable[[Connection], int]:
    def work(connection: Connection) -> int:
        connection.execute(insert(numbers), {"number": number})
        return number

    return work


def all_numbers(connection: Connection) -> list[int]:
    return list(connection.execute(select(numbers.c.number).order_by(numbers.c.number)).scalars())


def within(place: Path, scenario: Callable[[Database], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            engine = open_engine(place / "numbers.db", "FULL")
            create_missing(engine, metadata)
            database = Database(engine)
            try:
                await scenario(database)
            finally:
                await database.close()

    asyncio.run(run())


def test_what_is_answered_can_be_read(tmp_path: Path) -> None:
    async def scenario(database: Database) -> None:
        assert await asyncio.gather(*(database.write(add(number)) for number in range(50))) == list(range(50))
        assert await database.read(all_numbers) == list(range(50))

    within(tmp_path, scenario)


def test_one_that_fails_harms_no_other_of_its_group(tmp_path: Path) -> None:
    async def scenario(database: Database) -> None:
        await database.write(add(3))
        wishes = [database.write(add(number)) for number in range(6)]
        answers = await asyncio.gather(*wishes, return_exceptions=True)
        assert [isinstance(answer, IntegrityError) for answer in answers] == [number == 3 for number in range(6)]
        assert await database.read(all_numbers) == list(range(6))

    within(tmp_path, scenario)


def test_one_that_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def half(connection: Connection) -> None:
        add(7)(connection)
        raise ValueError("changed my mind")

    async def scenario(database: Database) -> None:
        with pytest.raises(ValueError, match="changed my mind"):
            await database.write(half)
        assert await database.read(all_numbers) == []

    within(tmp_path, scenario)


def test_closing_finishes_what_was_queued(tmp_path: Path) -> None:
    async def scenario(database: Database) -> None:
        wishes = [database.write(add(number)) for number in range(600)]
        await database.close()
        assert await asyncio.gather(*wishes) == list(range(600))

    async def run() -> None:
        engine = open_engine(tmp_path / "numbers.db", "NORMAL")
        create_missing(engine, metadata)
        await scenario(Database(engine))

    asyncio.run(run())


def test_one_who_waits_no_longer_does_not_stop_the_others(tmp_path: Path) -> None:
    async def scenario(database: Database) -> None:
        first, second = database.write(add(1)), database.write(add(2))
        first.cancel()
        assert await second == 2
        assert await database.read(all_numbers) == [1, 2]

    within(tmp_path, scenario)


def test_migrations_make_the_tables_that_the_code_expects(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "pilotlight.db", "NORMAL")
    migrate(engine)
    migrate(engine)  # nothing is left to do
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        journal = connection.execute(text("PRAGMA journal_mode")).scalar_one()
    engine.dispose()
    assert journal == "wal"


def test_a_schema_from_the_future_is_refused(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "pilotlight.db", "NORMAL")
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(WrongState, match="9999"):
        migrate(engine)
    engine.dispose()


def test_a_change_that_nobody_waits_for_does_not_fail_in_silence(tmp_path: Path) -> None:
    async def scenario(database: Database) -> None:
        with structlog.testing.capture_logs() as said:
            await database.write(add(3))
            database.write_unattended(add(3), "a note")
            await database.write(add(4))
        [line] = said
        assert (line["event"], line["what"], type(line["exc_info"])) == ("write_failed", "a note", IntegrityError)

    within(tmp_path, scenario)


def test_long_reads_leave_the_readers_to_the_others(tmp_path: Path) -> None:
    async def scenario(database: Database) -> None:
        may_end = threading.Event()
        slow = [asyncio.ensure_future(database.read_long(lambda _connection: may_end.wait(60))) for _ in range(2 * READERS)]
        try:
            await asyncio.sleep(0)
            assert await database.read(all_numbers) == []
        finally:
            may_end.set()
        assert all(await asyncio.gather(*slow))

    within(tmp_path, scenario)
