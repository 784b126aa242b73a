"""Proxy tokens: what HTTP clients show to web functions that ask for one. The edges check them; here they are made and revoked.

A token is valid everywhere until it is given an environment or one is taken from it; from then on it is valid where it is named.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pilotlight.control.environments import Environments
from pilotlight.control.tokens import hash_of
from pilotlight.core import errors, ids
from pilotlight.store import proxy_tokens as store
from pilotlight.store.database import Database
from pilotlight.wire import platform_pb2

MAX_PROXY_TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class ProxyToken:
    """What is known of a token: never its secret."""

    token_id: str
    name: str
    secret_hash: str
    scoped: bool
    created_by: str
    created_at: float
    environment_ids: frozenset[str] = frozenset()


class ProxyTokens:
    """Use cases of proxy tokens. `load` comes before anything else; `on_change` is called whenever edges must learn of a change."""

    def __init__(self, *, database: Database, environments: Environments, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._environments = environments
        self._now = now
        self._tokens: dict[str, ProxyToken] = {}
        self._changing = asyncio.Lock()  # a change builds on the one before, which counts once its row is written
        self.on_change: Callable[[], None] = lambda: None

    async def load(self) -> None:
        """Read all tokens."""
        rows = await self._database.read(store.all_tokens)
        allowed = await self._database.read(store.all_environments)
        for row in rows:
            environment_ids = frozenset(entry.environment_id for entry in allowed if entry.token_id == row.token_id)
            self._tokens[row.token_id] = ProxyToken(
                row.token_id, row.name, row.secret_hash, bool(row.scoped), row.created_by, row.created_at, environment_ids
            )

    def list(self) -> Sequence[ProxyToken]:
        """All tokens, oldest first."""
        return sorted(self._tokens.values(), key=lambda token: token.created_at)

    def valid_in(self, environment_name: str) -> Sequence[ProxyToken]:
        """The tokens that are valid in an environment. Raises NotFound."""
        environment_id = self._environments.resolve(environment_name).environment_id
        return [token for token in self.list() if not token.scoped or environment_id in token.environment_ids]

    def get(self, token_id: str) -> ProxyToken:
        """One token. Raises NotFound."""
        if token_id not in self._tokens:
            raise errors.NotFound(f"There is no proxy token {token_id}. `modal workspace proxy-tokens list` shows those there are.")
        return self._tokens[token_id]

    def message(self) -> platform_pb2.ProxyTokens:
        """All tokens, for an edge."""
        return platform_pb2.ProxyTokens(
            tokens=[
                platform_pb2.ProxyToken(
                    token_id=token.token_id,
                    secret_hash=token.secret_hash,
                    scoped=token.scoped,
                    environment_ids=sorted(token.environment_ids),
                )
                for token in self._tokens.values()
            ]
        )

    async def create(self, name: str, created_by: str, *, scoped: bool = False) -> tuple[str, str]:
        """Make a token: its id and its secret, which can't be read again. Raises OverLimit."""
        if len(self._tokens) >= MAX_PROXY_TOKENS:
            raise errors.OverLimit(f"There are {MAX_PROXY_TOKENS} proxy tokens, which is the limit. Delete some first.")
        secret = ids.new(ids.PROXY_TOKEN_SECRET)
        token = ProxyToken(ids.new(ids.PROXY_TOKEN), name, hash_of(secret), scoped, created_by, self._now())
        row = {
            "token_id": token.token_id,
            "name": name,
            "secret_hash": token.secret_hash,
            "scoped": scoped,
            "created_by": created_by,
            "created_at": token.created_at,
        }
        await self._database.write(lambda connection: store.add(connection, row))
        self._remember(token)
        return token.token_id, secret

    async def rename(self, token_id: str, name: str) -> ProxyToken:
        """Change what people call a token; an empty name takes it away. Raises NotFound."""
        return await self._change(token_id, lambda token: replace(token, name=name))

    async def allow(self, token_id: str, environment_id: str) -> None:
        """Let a token be valid in an environment, and only where it is so named. Raises NotFound."""
        self.get(token_id)
        environment_id = self._environments.by_id(environment_id).environment_id
        await self._change(
            token_id, lambda token: replace(token, scoped=True, environment_ids=token.environment_ids | {environment_id})
        )

    async def disallow(self, token_id: str, environment_id: str) -> None:
        """Let a token be valid in an environment no more; one that was valid everywhere stays so in all others. Raises NotFound."""
        self.get(token_id)
        environment_id = self._environments.by_id(environment_id).environment_id

        def without(token: ProxyToken) -> ProxyToken:
            valid = token.environment_ids if token.scoped else {item.environment_id for item in self._environments.list()}
            return replace(token, scoped=True, environment_ids=frozenset(valid) - {environment_id})

        await self._change(token_id, without)

    async def delete(self, token_id: str) -> None:
        """Make a token worthless: when this returns it is so, and stays so. Raises NotFound."""
        async with self._changing:
            self.get(token_id)
            await self._database.write(lambda connection: store.remove(connection, token_id))
            del self._tokens[token_id]
            self.on_change()

    async def environment_deleted(self, environment_id: str) -> None:
        """Tokens lose an environment with it."""
        async with self._changing:
            for token in [token for token in self._tokens.values() if environment_id in token.environment_ids]:
                await self._write(replace(token, environment_ids=token.environment_ids - {environment_id}))

    async def _change(self, token_id: str, how: Callable[[ProxyToken], ProxyToken]) -> ProxyToken:
        async with self._changing:
            return await self._write(how(self.get(token_id)))

    async def _write(self, token: ProxyToken) -> ProxyToken:
        allowed = sorted(token.environment_ids)
        await self._database.write(
            lambda connection: store.change(connection, token.token_id, allowed, name=token.name, scoped=token.scoped)
        )
        self._remember(token)
        return token

    def _remember(self, token: ProxyToken) -> None:
        self._tokens[token.token_id] = token
        self.on_change()
