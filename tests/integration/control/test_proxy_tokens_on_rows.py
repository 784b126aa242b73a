"""Proxy tokens are what their rows say: a change that could not be written has not happened, and none undoes another."""

import asyncio
from pathlib import Path

import pytest
from heart import Heart, beat
from sqlalchemy import Connection, text


async def broken(heart: Heart, event: str) -> None:
    """From now on the rows of tokens refuse this."""

    def apply(connection: Connection) -> None:
        connection.execute(text(f"CREATE TRIGGER no BEFORE {event} ON proxy_tokens BEGIN SELECT RAISE(ABORT, 'broken'); END"))

    await heart.server.database.write(apply)


@pytest.mark.parametrize(
    ("event", "name"), [("DELETE", "delete"), ("UPDATE", "rename"), ("UPDATE", "allow"), ("UPDATE", "disallow")]
)
def test_what_could_not_be_written_has_not_happened(tmp_path: Path, event: str, name: str) -> None:
    async def scenario(heart: Heart) -> None:
        tokens = heart.server.proxy_tokens
        environment_id = heart.server.environments.resolve("").environment_id
        token_id, _ = await tokens.create("mine", "me")
        before = tokens.get(token_id)
        told: list[None] = []
        tokens.on_change = lambda: told.append(None)
        await broken(heart, event)
        change = {
            "delete": lambda: tokens.delete(token_id),
            "rename": lambda: tokens.rename(token_id, "yours"),
            "allow": lambda: tokens.allow(token_id, environment_id),
            "disallow": lambda: tokens.disallow(token_id, environment_id),
        }[name]
        with pytest.raises(Exception, match="broken"):
            await change()
        assert tokens.get(token_id) == before
        assert not told
        await heart.restart()
        assert heart.server.proxy_tokens.get(token_id) == before

    beat(tmp_path, scenario)


def test_changes_at_the_same_time_build_on_each_other(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        tokens, environments = heart.server.proxy_tokens, heart.server.environments
        await environments.create("other")
        wanted = {environments.resolve(name).environment_id for name in ("", "other")}
        token_id, _ = await tokens.create("", "me")
        await asyncio.gather(tokens.rename(token_id, "named"), *(tokens.allow(token_id, each) for each in wanted))
        assert (tokens.get(token_id).name, tokens.get(token_id).environment_ids) == ("named", wanted)
        await heart.restart()
        kept = heart.server.proxy_tokens.get(token_id)
        assert (kept.name, kept.environment_ids) == ("named", wanted)

    beat(tmp_path, scenario)
