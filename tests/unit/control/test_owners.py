"""What is remembered of an id is remembered of one kind of object."""

import asyncio
from types import SimpleNamespace
from typing import Any

from sqlalchemy import create_engine

from pilotlight.control.owners import Owners
from pilotlight.core.permissions import Kind, Owner
from pilotlight.store.tables import dicts, metadata


def test_an_id_that_is_known_as_a_dict_is_no_secret() -> None:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    nowhere: Any = SimpleNamespace(find=lambda object_id: None)
    with engine.connect() as connection:
        row = {column.name: "" if column.type.python_type is str else 0 for column in dicts.columns}
        connection.execute(dicts.insert().values(row | {"dict_id": "di-1", "environment_id": "en-1"}))

        class Reads:
            async def read(self, work: Any) -> Any:
                return work(connection)

        database: Any = Reads()
        owners = Owners(database=database, apps=nowhere, functions=nowhere, calls=nowhere)
        for _ in range(2):
            assert asyncio.run(owners.of(Kind.DICT, "di-1")) == Owner("en-1")
            assert asyncio.run(owners.of(Kind.SECRET, "di-1")) is None
