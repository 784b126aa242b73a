"""Tokens: who may use this platform from outside. A secret is shown once, when it is made; its hash is kept.

Every request is verified in memory, without waiting for the database.
"""

import asyncio
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pilotlight.core import errors, ids
from pilotlight.store import tokens as store
from pilotlight.store.database import Database

FIRST_NAME = "first"
_HOW = 'On the machine that runs Pilotlight, `eval "$(pilotlight env)"` sets a token, and `pilotlight token create` makes another.'


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token: never its secret."""

    token_id: str
    name: str
    secret_hash: str
    created_at: float
    revoked_at: float | None
    last_used_at: float | None


def hash_of(secret: str) -> str:
    """What is stored in place of a secret. One hash is enough, since secrets are random, not chosen by people."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class Tokens:
    """Use cases of tokens. `load` comes before anything else."""

    def __init__(self, *, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now
        self._tokens: dict[str, Token] = {}
        self._used_at: dict[str, float] = {}

    async def load(self) -> None:
        """Read all tokens."""
        for row in await self._database.read(store.all_tokens):
            self._tokens[row.token_id] = Token(*row)

    async def create(self, name: str) -> tuple[str, str]:
        """Make a token: its id and its secret, which can't be read again."""
        token_id, secret = ids.new(ids.TOKEN), ids.new(ids.TOKEN_SECRET)
        token = Token(token_id, name, hash_of(secret), self._now(), None, None)
        await self._database.write(lambda connection: store.add(connection, token_id, name, token.secret_hash, token.created_at))
        self._tokens[token_id] = token
        return token_id, secret

    async def revoke(self, token_id: str) -> None:
        """Make a token worthless at once; raises NotFound. Safe to repeat."""
        at = self._now()
        token = self._tokens.get(token_id)
        if token is None:
            raise errors.NotFound(f"There is no token {token_id}. `pilotlight token list` shows those there are.")
        if token.revoked_at is None:
            self._tokens[token_id] = replace(token, revoked_at=at)
        await self._database.write(lambda connection: store.revoke(connection, token_id, at))

    def list(self) -> list[Token]:
        """All tokens, oldest first, revoked ones too."""
        tokens = sorted(self._tokens.values(), key=lambda token: token.created_at)
        return [replace(token, last_used_at=self._used_at.get(token.token_id, token.last_used_at)) for token in tokens]

    def get(self, token_id: str) -> Token:
        """One token; raises NotFound."""
        if token_id not in self._tokens:
            raise errors.NotFound(f"There is no token {token_id}. `pilotlight token list` shows those there are.")
        return self._tokens[token_id]

    def is_known(self, token_id: str) -> bool:
        """Whether there is, or was, such a token."""
        return token_id in self._tokens

    def name_of(self, token_id: str) -> str:
        """What people call a token: its name, or its id where it has none."""
        token = self._tokens.get(token_id)
        return token.name if token and token.name else token_id

    def verify(self, token_id: str, secret: str) -> None:
        """Accept a token or raise BadCredentials, in memory."""
        if not token_id or not secret:
            raise errors.BadCredentials(f"No token was sent. {_HOW}")
        token = self._tokens.get(token_id)
        # An unknown id takes as long as a wrong secret, and says the same.
        known = token.secret_hash if token else hash_of("")
        if not hmac.compare_digest(hash_of(secret), known) or token is None:
            raise errors.BadCredentials(f"The token is wrong: its id or its secret is not one of this platform. {_HOW}")
        if token.revoked_at is not None:
            raise errors.BadCredentials(f"The token {token_id} ('{token.name}') was revoked. {_HOW}")
        self._used_at[token_id] = self._now()

    async def record_use(self) -> None:
        """Write down when tokens were last used: for a loop, and before the end."""
        used_at, self._used_at = self._used_at, {}
        for token_id, at in used_at.items():
            self._tokens[token_id] = replace(self._tokens[token_id], last_used_at=at)
        await self._database.write(lambda connection: store.set_used(connection, used_at))

    async def ensure_first(self, path: Path) -> None:
        """Make the first token and write `id:secret` to the file (mode 0600) if there is no token, or the file is missing.

        A file whose token was revoked stays: somebody wanted it so.
        """
        if self._tokens and await asyncio.to_thread(path.exists):
            return
        token_id, secret = await self.create(FIRST_NAME)
        await asyncio.to_thread(_write_private, path, f"{token_id}:{secret}\n")


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
