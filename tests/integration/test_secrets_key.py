"""The key that secrets are sealed with: where it is, and how it is changed while secrets are in use."""

import asyncio
import secrets
from pathlib import Path
from typing import Any

import pytest
from running_server import UseCases, assemble
from sqlalchemy import Connection

from pilotlight.control.creation import Creation
from pilotlight.control.sealing import Seal
from pilotlight.control.secrets import RESEALED_AT_ONCE, Secrets
from pilotlight.core.errors import WrongState
from pilotlight.objects import KeyFile
from pilotlight.store import secrets as rows

COUNT = 2 * RESEALED_AT_ONCE + 5  # three transactions


class Crash(Exception):
    """The process has died here."""


async def _make(use_cases: UseCases, count: int = COUNT) -> list[str]:
    work = [use_cases.secrets.get_or_create("", f"s{n}", Creation.IF_MISSING, {"N": f"value {n}"}) for n in range(count)]
    return [secret.secret_id for secret in await asyncio.gather(*work)]


async def _values(subject: Secrets, ids: list[str]) -> list[str]:
    return [(await subject.environment_of([secret_id]))["N"] for secret_id in ids]


async def _sealed_by_old_keys(use_cases: UseCases, path: Path) -> int:
    mark = Seal(KeyFile(path).load()).mark
    return len(await use_cases.database.read(lambda connection: rows.sealed_otherwise(connection, mark, "", COUNT)))


def test_rotation_seals_all_anew_while_they_are_in_use(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "secrets.key"

    async def scenario() -> None:
        use_cases = await assemble(tmp_path, b"")
        ids = await _make(use_cases)
        old = path.read_bytes()
        rotating = asyncio.ensure_future(use_cases.secrets.rotate_key())
        while not rotating.done():
            assert await _values(use_cases.secrets, ids[:1]) == ["value 0"]
            await use_cases.secrets.update(ids[1], {"N": "changed"})
        done = await rotating
        assert (done.unreadable, done.made_key) == (0, True)
        assert done.resealed >= COUNT - 1  # one that was changed meanwhile was sealed with the new key already
        expected = ["value 0", "changed", *(f"value {n}" for n in range(2, COUNT))]
        assert await _values(use_cases.secrets, ids) == expected
        assert len(path.read_bytes()) == 32 and path.read_bytes() != old and path.stat().st_mode & 0o777 == 0o600
        assert await _sealed_by_old_keys(use_cases, path) == 0
        await use_cases.database.close()
        again = await assemble(tmp_path, b"")
        assert await _values(again.secrets, ids) == expected
        await again.database.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("crash_at", ["before anything is sealed", "in the middle", "before the old key goes"])
def test_a_crash_in_a_rotation_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: str) -> None:
    path = tmp_path / "keys" / "secrets.key"

    async def scenario() -> None:
        use_cases = await assemble(tmp_path, b"")
        ids = await _make(use_cases)
        with monkeypatch.context() as patch:
            if crash_at == "before the old key goes":
                _crash_on(patch, KeyFile, "replace", call=2)
            else:
                _crash_on(patch, rows, "reseal", call=1 if crash_at == "before anything is sealed" else 2)
            with pytest.raises(Crash):
                await use_cases.secrets.rotate_key()
        await use_cases.database.close()
        assert len(path.read_bytes()) == 64  # both keys: what is sealed with either opens
        again = await assemble(tmp_path, b"")
        assert await _values(again.secrets, ids) == [f"value {n}" for n in range(COUNT)]
        await again.secrets.restore()
        assert len(path.read_bytes()) == 32
        assert await _sealed_by_old_keys(again, path) == 0
        assert await _values(again.secrets, ids) == [f"value {n}" for n in range(COUNT)]
        await again.database.close()

    asyncio.run(scenario())


def _crash_on(patch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    genuine = getattr(owner, name)
    calls = 0

    def crashing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Crash
        return genuine(*args)

    patch.setattr(owner, name, crashing)


def test_the_operators_own_key_file(tmp_path: Path) -> None:
    path = tmp_path / "operators.key"
    file = KeyFile(path, is_operators=True)
    with pytest.raises(WrongState, match=r"can't be read.*Make one"):
        file.load()
    first, second = secrets.token_bytes(32), secrets.token_bytes(32)
    path.write_bytes(first)
    path.chmod(0o644)
    with pytest.raises(WrongState, match="Others may read"):
        file.load()
    path.chmod(0o600)

    async def scenario() -> None:
        use_cases = await assemble(tmp_path, b"")
        subject = Secrets(database=use_cases.database, environments=use_cases.environments, key_file=file)
        use_cases.secrets = subject
        ids = await _make(use_cases, 3)
        with pytest.raises(WrongState, match="Put a new key in front"):
            await subject.rotate_key()
        path.write_bytes(second + first)
        done = await subject.rotate_key()
        assert (done.resealed, done.unreadable, done.made_key) == (3, 0, False)
        assert path.read_bytes() == second + first  # not ours to write
        path.write_bytes(second)
        only = Secrets(database=use_cases.database, environments=use_cases.environments, key_file=file)
        assert await _values(only, ids) == ["value 0", "value 1", "value 2"]
        await use_cases.database.close()

    asyncio.run(scenario())


def test_what_a_lost_key_sealed_is_left_and_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        use_cases = await assemble(tmp_path, b"")
        (secret_id,) = await _make(use_cases, 1)
        foreign = Seal([bytes(32)]).seal(secret_id, b"{}")

        def replace(connection: Connection) -> None:
            rows.reseal(connection, {secret_id: foreign})

        await use_cases.database.write(replace)
        done = await use_cases.secrets.rotate_key()
        assert (done.resealed, done.unreadable) == (0, 1)
        with pytest.raises(WrongState, match="can't be unsealed"):
            await use_cases.secrets.environment_of([secret_id])
        await use_cases.database.close()

    asyncio.run(scenario())
