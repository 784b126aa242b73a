"""The audit log: what stock clients, containers and the command line leave in it, and what they do not."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import modal
import pytest
from click.testing import CliRunner
from grpclib import Status
from grpclib.client import Channel
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientStub
from platform_in_process import Platform

from pilotlight.cli import main
from pilotlight.control.audit import SAME_WITHIN_S, Audit
from pilotlight.core.audit import SIGN_IN, Event
from pilotlight.core.sign_ins import MAX_FAILURES
from pilotlight.store.database import Database, open_engine
from pilotlight.store.schema import migrate


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    started = Platform()
    started.start()
    yield started
    started.stop()


def events(platform: Platform) -> list[Event]:
    return list(platform.call(platform.server.audit.events(since=0.0, after_id=0, limit=1000)))


def test_who_did_what_and_no_secret(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_SERVER_URL", platform.url)
    token_id, secret = platform.token
    client = modal.Client.from_credentials(token_id, secret)
    modal.Secret.objects.create("db", {"PASSWORD": "hunter2"}, client=client)
    kept = modal.Dict.from_name("kept", create_if_missing=True, client=client)
    kept.hydrate(client)
    kept["hunter2"] = "hunter2"
    modal.Secret.objects.delete("db", client=client)
    seen = [event for event in events(platform) if event.actor == token_id]
    assert {event.address for event in seen} == {"127.0.0.1"}
    secret_id = seen[2].object
    assert secret_id.startswith("st-")
    assert [(event.action, event.object, event.outcome) for event in seen] == [
        ("SecretGetOrCreate", "db", "OK"),
        ("DictGetOrCreate", "kept", "OK"),
        ("SecretDelete", secret_id, "OK"),
    ]
    assert not any("hunter2" in str(event) or secret in str(event) for event in events(platform))


def test_what_failed_is_there_with_its_status(platform: Platform) -> None:
    async def stop() -> None:
        host, _, port = platform.settings.api.rpartition(":")
        metadata = dict(zip(("x-modal-token-id", "x-modal-token-secret"), platform.token, strict=True))
        async with Channel(host, int(port)) as channel:
            with pytest.raises(GRPCError):
                await ModalClientStub(channel).AppStop(api_pb2.AppStopRequest(app_id="ap-nowhere"), metadata=metadata)

    asyncio.run(stop())
    assert ("AppStop", "ap-nowhere", "NOT_FOUND") in [(e.action, e.object, e.outcome) for e in events(platform)]


def test_the_command_line_leaves_its_trace_and_shows_all(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    at = ["--state", str(platform.settings.state)]
    for module in ("tokens", "audit"):
        monkeypatch.setattr(f"pilotlight.cli.{module}.running_settings", lambda _: platform.settings)
    made = CliRunner().invoke(main, ["token", "create", "ci", *at])
    assert made.exit_code == 0, made.output
    token_id = made.output.partition("MODAL_TOKEN_ID=")[2].split()[0]
    assert CliRunner().invoke(main, ["token", "revoke", token_id, *at]).exit_code == 0
    shown = CliRunner().invoke(main, ["audit", "--json", *at])
    assert shown.exit_code == 0, shown.output
    listed = [json.loads(line) for line in shown.output.splitlines()]
    mine = [(e["actor"], e["action"], e["object"], e["outcome"]) for e in listed if token_id in e["object"]]
    assert mine == [("", "TokenCreate", f"ci/{token_id}", "OK"), ("", "TokenRevoke", token_id, "OK")]
    table = CliRunner(env={"COLUMNS": "300"}).invoke(main, ["audit", "--since", "1h", "--limit", "5", *at]).output
    assert "this machine" in table and "TokenRevoke" in table
    assert "TokenRevoke" not in CliRunner().invoke(main, ["audit", "--since", "2999-01-01", *at]).output
    assert CliRunner().invoke(main, ["audit", "--since", "soon", *at]).exit_code == 2


def within(place: Path, scenario: Callable[[Database], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            engine = open_engine(place / "pilotlight.db", "NORMAL")
            migrate(engine)
            database = Database(engine)
            try:
                await scenario(database)
            finally:
                await database.close()

    asyncio.run(run())


def test_repetitions_are_one_event_until_a_minute_has_passed(tmp_path: Path) -> None:
    async def scenario(database: Database) -> None:
        now = 1000.0
        audit = Audit(database=database, retention_s=3600, now=lambda: now)

        def record(about: str) -> None:
            audit.record(actor="ak-1", address="192.0.2.1", action="VolumePutFiles2", about=about, outcome="OK")

        for _ in range(100):
            record("vo-1")
        record("vo-2")
        now += SAME_WITHIN_S
        record("vo-1")
        found = await audit.events(since=0.0, after_id=0, limit=10)
        assert [(event.at, event.object) for event in found] == [(1000.0, "vo-1"), (1000.0, "vo-2"), (1060.0, "vo-1")]
        assert await audit.events(since=0.0, after_id=found[1].event_id, limit=10) == found[2:]
        assert await audit.events(since=0.0, after_id=0, limit=1) == found[2:]

    within(tmp_path, scenario)


def test_who_follows_is_woken_by_the_next_event(tmp_path: Path) -> None:
    async def scenario(database: Database) -> None:
        audit = Audit(database=database, retention_s=3600)
        assert await audit.events(since=0.0, after_id=0, limit=10, wait_s=0.01) == []
        following = asyncio.ensure_future(audit.events(since=0.0, after_id=0, limit=10, wait_s=15.0))
        while not audit._written._waiters:  # noqa: ASYNC110 - turns of the loop, not time
            await asyncio.sleep(0)
        audit.record(actor="ak-1", address="", action="AppStop", about="ap-1", outcome="OK")
        assert [event.action for event in await following] == ["AppStop"]

    within(tmp_path, scenario)


def test_old_events_go_and_so_do_those_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotlight.control.audit.MAX_EVENTS", 3)

    async def scenario(database: Database) -> None:
        now = 0.0
        audit = Audit(database=database, retention_s=100, now=lambda: now)
        for number in range(6):
            now = number * 10.0
            audit.record(actor="ak-1", address="", action="AppStop", about=f"ap-{number}", outcome="OK")
        await database.write(lambda connection: None)
        assert await audit.collect() == 3
        now = 141.0
        assert await audit.collect() == 2
        assert [event.object for event in await audit.events(since=0.0, after_id=0, limit=10)] == ["ap-5"]

    within(tmp_path, scenario)


def test_events_beyond_the_limit_go_without_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotlight.control.audit.MAX_EVENTS", 3)
    monkeypatch.setattr("pilotlight.store.audit.TRIMMED_EVERY", 10)

    async def scenario(database: Database) -> None:
        audit = Audit(database=database, retention_s=3600)
        for number in range(52):
            audit.record(actor="ak-1", address="", action="AppStop", about=f"ap-{number}", outcome="OK")
        listed = [event.object for event in await audit.events(since=0.0, after_id=0, limit=100)]
        assert listed == ["ap-47", "ap-48", "ap-49", "ap-50", "ap-51"]

    within(tmp_path, scenario)


def test_wrong_tokens_are_written_down_and_have_to_wait_while_who_works_goes_on() -> None:
    platform = Platform()
    platform.start()

    async def sign_in() -> None:
        host, _, port = platform.settings.api.rpartition(":")
        good = dict(zip(("x-modal-token-id", "x-modal-token-secret"), platform.token, strict=True))
        async with Channel(host, int(port)) as channel:
            client = ModalClientStub(channel)
            await client.AppList(api_pb2.AppListRequest(), metadata=good)
            said: list[tuple[Status, str]] = []
            for number in range(MAX_FAILURES + 2):
                bad = {"x-modal-token-id": "as-hunter2", "x-modal-token-secret": f"as-{number}"}
                async with Channel(host, int(port)) as other:  # on this one nothing more would be read for a while
                    with pytest.raises(GRPCError) as refused:
                        await ModalClientStub(other).AppList(api_pb2.AppListRequest(), metadata=bad)
                said.append((refused.value.status, refused.value.message or ""))
            assert {status for status, _ in said[:MAX_FAILURES]} == {Status.UNAUTHENTICATED}
            assert {status for status, _ in said[MAX_FAILURES:]} == {Status.RESOURCE_EXHAUSTED}
            assert "127.0.0.1" in said[-1][1] and "looked at again in" in said[-1][1]
            await client.AppList(api_pb2.AppListRequest(), metadata=good)

    try:
        asyncio.run(sign_in())
        found = [event for event in events(platform) if event.action == SIGN_IN]
        assert [(event.actor, event.address, event.object, event.outcome) for event in found] == [
            ("", "127.0.0.1", "", "UNAUTHENTICATED")
        ]
    finally:
        platform.stop()
