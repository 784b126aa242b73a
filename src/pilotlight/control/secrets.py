"""Secrets: environment variables for containers. Their values leave this module only for a container that was promised them.

Nothing here logs a value, and no error names one.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, Row

from pilotlight.control.creation import Creation
from pilotlight.control.environments import Environment, Environments
from pilotlight.control.sealing import Seal
from pilotlight.core import errors, ids
from pilotlight.core.names import check_object_name
from pilotlight.core.signing import KEY_BYTES
from pilotlight.objects import KeyFile
from pilotlight.store import secrets as store
from pilotlight.store.database import Database

log = structlog.get_logger()

MAX_VALUE_CHARS = 32_768
MAX_VARIABLES = 1_000  # of one secret
MAX_PAGE = 1_000
USE_NOTED_EVERY_S = 60.0
KEPT_AFTER_STOP_S = 24 * 3600  # secrets of an app, once it is stopped
RESEALED_AT_ONCE = 200  # in one transaction, so that others don't wait long for theirs


@dataclass(frozen=True, slots=True)
class Secret:
    """What may be told of a secret: never its values."""

    secret_id: str
    name: str
    environment_name: str
    keys: tuple[str, ...]
    created_at: float
    last_used_at: float


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a change of the key went. What is `unreadable` was sealed with a key that is lost, and is left as it is."""

    resealed: int
    unreadable: int
    made_key: bool


class Secrets:
    """Use cases of secrets. `restore` comes before anything else."""

    def __init__(
        self, *, database: Database, environments: Environments, key_file: KeyFile, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._environments = environments
        self._key_file = key_file
        self._keys = key_file.load()
        self._seal = Seal(self._keys)
        self._rotating = asyncio.Lock()
        self._now = now
        self._use_noted_at: dict[str, float] = {}

    async def get_or_create(
        self,
        environment_name: str,
        name: str,
        creation: Creation,
        variables: Mapping[str, str],
        *,
        required_keys: Sequence[str] = (),
        app_id: str = "",
        request_key: str = "",
    ) -> Secret:
        """Find a secret or make one; raises NotFound, AlreadyExists, WrongState for missing keys. Safe to repeat under one key."""
        environment = self._environments.resolve(environment_name)
        if creation is Creation.LOOK_UP:
            secret = await self._look_up(environment, name)
        else:
            _check_variables(variables)
            if creation is not Creation.ANONYMOUS:
                check_object_name(name, "secret")
            secret_id = ids.derived(ids.SECRET, request_key, name) if request_key else ids.new(ids.SECRET)
            work = self._creating(environment, name, creation, dict(variables), app_id, secret_id)
            secret = self._describe(await self._database.write(work))
        missing = [key for key in required_keys if key not in secret.keys]
        if missing:
            raise errors.WrongState(
                f"Secret is missing key(s): {', '.join(missing)}. Add them to '{secret.name}' with `modal secret create --force`."
            )
        return secret

    async def update(self, secret_id: str, changes: Mapping[str, str]) -> None:
        """Add or replace variables; raises NotFound. Safe to repeat."""
        _check_variables(changes)
        at = self._now()

        def work(connection: Connection) -> None:
            row = store.get(connection, secret_id)
            if row is None:
                raise _gone(secret_id)
            merged = self._open(row) | dict(changes)
            _check_variables(merged)
            store.change(connection, secret_id, self._sealed(secret_id, merged), at)

        await self._database.write(work)

    async def get(self, secret_id: str) -> Secret:
        """One secret, without its values; raises NotFound."""
        row = await self._database.read(lambda connection: store.get(connection, secret_id))
        if row is None:
            raise _gone(secret_id)
        return self._describe(row)

    async def list(self, environment_name: str, created_before: float = 0, limit: int = 0) -> tuple[Environment, list[Secret]]:
        """Named secrets, newest first."""
        environment = self._environments.resolve(environment_name)
        before, count = created_before or float("inf"), min(limit or MAX_PAGE, MAX_PAGE)
        rows = await self._database.read(lambda connection: store.page(connection, environment.environment_id, before, count))
        return environment, [self._describe(row) for row in rows]

    async def delete(self, secret_id: str) -> None:
        """Remove a secret; one that is gone is no error."""
        await self._database.write(lambda connection: store.remove(connection, secret_id))

    async def environment_of(self, secret_ids: Sequence[str]) -> dict[str, str]:
        """The variables of these secrets, of which later ones win: for a container that starts; raises NotFound."""
        if not secret_ids:
            return {}
        rows = {
            row.secret_id: row for row in await self._database.read(lambda connection: store.get_many(connection, set(secret_ids)))
        }
        merged: dict[str, str] = {}
        for secret_id in secret_ids:
            if secret_id not in rows:
                raise _gone(secret_id)
            merged |= self._open(rows[secret_id])
        self._note_use(secret_ids)
        return merged

    async def restore(self) -> None:
        """Finish a change of the key that a crash broke off."""
        if len(self._keys) > 1:
            async with self._rotating:
                await self._reseal_all(made_key=False)

    async def rotate_key(self) -> Rotation:
        """Seal all secrets anew under a new key, while others go on reading and writing; raises WrongState.

        The new key is on disk before anything is sealed with it, and the old one until nothing needs it any more: after a crash
        `restore` goes on where this was. In an operator's key file the new key is the first one there; it is left as it is.
        """
        async with self._rotating:
            if self._key_file.is_operators:
                loaded = await asyncio.to_thread(self._key_file.load)
                if loaded[0] == self._keys[0]:
                    path = self._key_file.path
                    how = f"(umask 077; (head -c {KEY_BYTES} /dev/urandom; cat {path}) > {path}.new) && mv {path}.new {path}"
                    raise errors.WrongState(
                        f"The key file {path} is yours, and its first key is the one in use. Put a new key in front of it, then "
                        f"run this again: {how}"
                    )
                self._use_keys((*loaded, *self._keys))
                return await self._reseal_all(made_key=False)
            kept = (secrets.token_bytes(KEY_BYTES), *await asyncio.to_thread(self._key_file.load))
            await asyncio.to_thread(self._key_file.replace, kept)
            self._use_keys((kept[0], *self._keys))
            return await self._reseal_all(made_key=True)

    def _use_keys(self, keys: tuple[bytes, ...]) -> None:
        # The old ones stay in memory: who has just read a row may be about to open it.
        self._keys = tuple(dict.fromkeys(keys))
        self._seal = Seal(self._keys)

    async def _reseal_all(self, *, made_key: bool) -> Rotation:
        resealed = unreadable = 0
        after = ""

        def work(connection: Connection) -> tuple[int, int, str]:
            rows = store.sealed_otherwise(connection, self._seal.mark, after, RESEALED_AT_ONCE)
            sealed: dict[str, bytes] = {}
            for row in rows:
                try:
                    plain = self._seal.open(row.secret_id, row.sealed)
                except errors.WrongState:
                    log.warning("secret_unreadable", secret_id=row.secret_id)
                    continue
                sealed[row.secret_id] = self._seal.seal(row.secret_id, plain)
            store.reseal(connection, sealed)
            return len(sealed), len(rows) - len(sealed), rows[-1].secret_id if rows else ""

        # The writer does one piece of work after the other: what the old key sealed before this is seen, and nothing comes later.
        while True:
            done, lost, after = await self._database.write(work)
            resealed, unreadable = resealed + done, unreadable + lost
            if not after:
                break
        if not self._key_file.is_operators:
            await asyncio.to_thread(self._key_file.replace, self._keys[:1])
        log.info("secrets_resealed", count=resealed, unreadable=unreadable)
        return Rotation(resealed, unreadable, made_key)

    async def collect(self) -> int:
        """Remove the secrets of apps that were stopped long enough ago; how many."""
        before = self._now() - KEPT_AFTER_STOP_S
        return await self._database.write(lambda connection: store.remove_of_stopped_apps(connection, before))

    def _creating(
        self, environment: Environment, name: str, creation: Creation, variables: dict[str, str], app_id: str, secret_id: str
    ) -> Callable[[Connection], Row[*tuple[Any, ...]]]:
        at = self._now()

        def work(connection: Connection) -> Row[*tuple[Any, ...]]:
            found = None if creation is Creation.ANONYMOUS else store.find(connection, environment.environment_id, name)
            if found is None:
                store.add(
                    connection,
                    secret_id=secret_id,
                    environment_id=environment.environment_id,
                    name=None if creation is Creation.ANONYMOUS else name,
                    app_id=app_id or None,
                    sealed=self._sealed(secret_id, variables),
                    created_at=at,
                    updated_at=at,
                )
            elif creation is Creation.OVERWRITE:
                store.change(connection, found.secret_id, self._sealed(found.secret_id, variables), at)
            elif creation is Creation.FAIL_IF_EXISTS and found.secret_id != secret_id:
                raise errors.AlreadyExists(f"Secret '{name}' already exists in environment '{environment.name}'.")
            row = store.get(connection, found.secret_id if found else secret_id)
            assert row is not None
            return row

        return work

    async def _look_up(self, environment: Environment, name: str) -> Secret:
        row = await self._database.read(lambda connection: store.find(connection, environment.environment_id, name))
        if row is None:
            raise errors.NotFound(
                f"Secret '{name}' not found in environment '{environment.name}'. "
                f"Create it with `modal secret create {name} KEY=value`, or see `modal secret list`."
            )
        return self._describe(row)

    def _sealed(self, secret_id: str, variables: Mapping[str, str]) -> bytes:
        return self._seal.seal(secret_id, json.dumps(dict(variables)).encode())

    def _open(self, row: Row[*tuple[Any, ...]]) -> dict[str, str]:
        return json.loads(self._seal.open(row.secret_id, row.sealed))

    def _describe(self, row: Row[*tuple[Any, ...]]) -> Secret:
        environment = self._environments.by_id(row.environment_id)
        keys = tuple(sorted(self._open(row)))
        return Secret(row.secret_id, row.name or "", environment.name, keys, row.created_at, row.last_used_at or 0.0)

    def _note_use(self, secret_ids: Sequence[str]) -> None:
        # Nobody waits for this: a container starts no later for it, and a loss costs a minute of a time shown to people.
        at = self._now()
        due = [key for key in set(secret_ids) if self._use_noted_at.get(key, 0.0) < at - USE_NOTED_EVERY_S]
        if not due:
            return
        self._use_noted_at = {key: noted for key, noted in self._use_noted_at.items() if noted >= at - USE_NOTED_EVERY_S}
        self._use_noted_at |= dict.fromkeys(due, at)
        noted = self._database.write(lambda connection: store.set_used(connection, due, at))
        noted.add_done_callback(asyncio.Future.exception)


def _check_variables(variables: Mapping[str, str]) -> None:
    if len(variables) > MAX_VARIABLES:
        raise errors.OverLimit(f"The secret has {len(variables)} variables, over the limit of {MAX_VARIABLES}. Split it.")
    for key, value in variables.items():
        if not key or "=" in key or "\0" in key:
            raise errors.InvalidInput(f"{key!r} can't be the name of an environment variable: it is empty, or holds '=' or NUL.")
        if "\0" in value:
            raise errors.InvalidInput(f"The value of {key} holds a NUL character, which no environment variable can.")
        if len(value) > MAX_VALUE_CHARS:
            raise errors.InvalidInput(
                f"The value of {key} has {len(value)} characters, over the limit of {MAX_VALUE_CHARS}. Use a file."
            )


def _gone(secret_id: str) -> errors.NotFound:
    return errors.NotFound(f"Secret {secret_id} not found: it was deleted. Create it again, and run or deploy the app anew.")
