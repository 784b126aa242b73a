"""Completion webhooks: which calls somebody wants to hear the end of, and where.

A webhook belongs to the name of an app in an environment, so it outlives deployments. The delivery of an end is recorded in the
transaction that records the output: neither is ever there without the other. What no webhook covers pays for a look into a dict.
"""

import asyncio
import base64
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
from modal_proto import api_pb2
from sqlalchemy import Connection, Row

from pilotlight.control.apps import Apps
from pilotlight.control.environments import Environments
from pilotlight.control.functions import retry_policy_of
from pilotlight.control.live import LiveCall, LiveInput, Pool
from pilotlight.control.sealing import Seal
from pilotlight.core import errors, ids
from pilotlight.core.webhooks import GIVE_UP_AFTER_S, DeliveryState, check_url, covers
from pilotlight.store import webhooks as store
from pilotlight.store.database import Database, Work

log = structlog.get_logger()

Result = api_pb2.GenericResult
Finished = tuple[LiveInput, int, api_pb2.FunctionGetOutputsItem]  # an output with its number in the call

MAX_WEBHOOKS = 1_000
MAX_DELIVERIES_LISTED = 1_000
KEPT_S = 7 * 24 * 3600.0  # deliveries, once they are made or given up
SECRET_BYTES = 32
MAP_SETTLE_S = 60.0  # a map of which nothing is unfinished may go on; it has ended if it has not by then, and nobody asks about it
RETRY_GRACE_S = 30.0  # beyond the delay of a retry that the caller is to make, before it is taken to make none


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where to the ends of which calls are told. `function` is empty for all of the app."""

    webhook_id: str
    environment_id: str
    app: str
    function: str
    url: str
    sealed: bytes
    created_at: float
    gone_at: float | None = None


class Webhooks:
    """All webhooks. `due` is set whenever there may be something to deliver. `key` is 32 bytes, and seals what signs."""

    def __init__(
        self,
        *,
        database: Database,
        environments: Environments,
        apps: Apps,
        key: bytes,
        allow_private: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._environments = environments
        self._apps = apps
        self._seal = Seal([key])
        self._allow_private = allow_private
        self._now = now
        self._all: dict[str, Webhook] = {}
        self._by_app: dict[tuple[str, str], list[Webhook]] = {}  # of those whose receiver is not gone
        self.due = asyncio.Event()

    async def restore(self) -> None:
        """Read them after a start."""
        for row in await self._database.read(store.all_webhooks):
            self._all[row.webhook_id] = Webhook(*row)
        self._sort()
        self.due.set()

    def _sort(self) -> None:
        self._by_app = {}
        for webhook in self._all.values():
            if webhook.gone_at is None:
                self._by_app.setdefault((webhook.environment_id, webhook.app), []).append(webhook)

    # ---- what their owner does ----

    async def add(self, app: str, function: str, environment_name: str, url: str) -> tuple[Webhook, str]:
        """A new webhook, and the secret that signs its deliveries, which is never told again. The app need not be there yet."""
        environment = self._environments.resolve(environment_name)
        if not app:
            raise errors.InvalidInput("A webhook needs the name of an app: --app NAME, as in `modal.App(NAME)`.")
        check_url(url, allow_private=self._allow_private)
        if len(self._all) >= MAX_WEBHOOKS:
            raise errors.OverLimit(
                f"There are {MAX_WEBHOOKS} webhooks, which is the limit. Remove one: pilotlight webhook remove ID."
            )
        webhook_id, secret = ids.new(ids.WEBHOOK), secrets.token_bytes(SECRET_BYTES)
        sealed = self._seal.seal(webhook_id, secret)
        webhook = Webhook(webhook_id, environment.environment_id, app, function, url, sealed, self._now())
        row = {
            "webhook_id": webhook_id,
            "environment_id": webhook.environment_id,
            "app": app,
            "function": function,
            "url": url,
            "sealed": sealed,
            "created_at": webhook.created_at,
        }
        await self._database.write(lambda connection: store.add(connection, row))
        self._all[webhook_id] = webhook
        self._sort()
        log.info("webhook_added", webhook_id=webhook_id, app=app, function=function)
        return webhook, "whsec_" + base64.b64encode(secret).decode()

    def list(self, environment_name: str = "") -> list[Webhook]:
        """Webhooks (of one environment, or of all), oldest first. Raises NotFound for an unknown environment."""
        only = self._environments.resolve(environment_name).environment_id if environment_name else ""
        return [webhook for webhook in self._all.values() if only in ("", webhook.environment_id)]

    def environment_name(self, webhook: Webhook) -> str:
        """Empty while its environment is being deleted."""
        names = {environment.environment_id: environment.name for environment in self._environments.list()}
        return names.get(webhook.environment_id, "")

    def get(self, webhook_id: str) -> Webhook:
        """Raises NotFound."""
        if (webhook := self._all.get(webhook_id)) is None:
            raise errors.NotFound(f"There is no webhook {webhook_id!r}. `pilotlight webhook list` shows what there is.")
        return webhook

    async def remove(self, webhook_id: str) -> int:
        """Remove a webhook; returns how many deliveries were still to be made, and are not. Raises NotFound."""
        self.get(webhook_id)
        return await self._remove([webhook_id])

    async def remove_all_in(self, environment_id: str) -> None:
        """Their environment is deleted."""
        await self._remove([webhook.webhook_id for webhook in self._all.values() if webhook.environment_id == environment_id])

    async def _remove(self, webhook_ids: Sequence[str]) -> int:
        dropped = await self._database.write(lambda connection: store.remove(connection, webhook_ids))
        for webhook_id in webhook_ids:
            self._all.pop(webhook_id, None)
            log.info("webhook_removed", webhook_id=webhook_id)
        self._sort()
        return dropped

    async def deliveries(self, webhook_id: str, limit: int = 0) -> Sequence[Row[*tuple[Any, ...]]]:
        """The last deliveries of a webhook (empty: of all), newest first. Raises NotFound."""
        if webhook_id:
            self.get(webhook_id)
        count = min(limit or MAX_DELIVERIES_LISTED, MAX_DELIVERIES_LISTED)
        return await self._database.read(lambda connection: store.deliveries(connection, webhook_id, count))

    async def redeliver(self, delivery_id: str) -> None:
        """Send a delivery (again), under its old id, from now on for a day. Raises NotFound, WrongState."""
        row = await self._database.read(lambda connection: store.delivery(connection, delivery_id))
        if row is None:
            raise errors.NotFound(
                f"There is no delivery {delivery_id!r}. They are kept for 7 days: `pilotlight webhook deliveries` lists them."
            )
        if self.get(row.webhook_id).gone_at is not None:
            raise errors.WrongState(
                f"The receiver of webhook {row.webhook_id} has answered 410 Gone: nothing is sent there any more. "
                "Remove the webhook, and add it again once there is a receiver."
            )
        at = self._now()
        values = {"state": DeliveryState.PENDING, "tries": 0, "due_at": at, "give_up_at": at + GIVE_UP_AFTER_S, "finished_at": None}
        await self._database.write(lambda connection: store.change(connection, delivery_id, **values))
        self.due.set()

    # ---- what their deliveries need ----

    def secret_of(self, webhook: Webhook) -> bytes:
        """What signs. Raises WrongState if the key file is another one."""
        try:
            return self._seal.open(webhook.webhook_id, webhook.sealed)
        except errors.WrongState as error:
            raise errors.WrongState(
                f"The secret of webhook {webhook.webhook_id} can't be unsealed: `keys/webhooks.key` of the state directory is not "
                "the one that it was sealed with. Put the old file back, or remove the webhook and add it again."
            ) from error

    async def set_gone(self, webhook: Webhook) -> None:
        """Its receiver wants to hear no more."""
        at, problem = self._now(), "the receiver has answered 410 Gone"
        await self._database.write(lambda connection: store.set_gone(connection, webhook.webhook_id, at, problem))
        self._all[webhook.webhook_id] = replace(webhook, gone_at=at)
        self._sort()
        log.warning("webhook_gone", webhook_id=webhook.webhook_id)

    async def collect(self) -> int:
        """Forget old deliveries; returns how many."""
        before = self._now() - KEPT_S
        return await self._database.write(lambda connection: store.delete_old(connection, before, 1_000))

    # ---- what calls tell ----

    def writing(self, outputs: Sequence[Finished], work: Work[None], *, patient: bool) -> "asyncio.Future[None]":
        """Write outputs by `work` and, in the same transaction, the deliveries of the calls that end with them."""
        ends = self._ends(outputs) if self._by_app else []
        if not ends:
            return self._database.write(work, patient=patient)

        def both(connection: Connection) -> None:
            work(connection)
            store.announce(connection, ends)

        written = self._database.write(both, patient=patient)
        written.add_done_callback(lambda _: self.due.set())
        return written

    def going_on(self, call: LiveCall, work: Work[None]) -> Work[None]:
        """Work that lets a call go on. If its end was to be told, and was not yet, it will not be."""
        if not self._by_app or not self._of(call.pool):
            return work

        def both(connection: Connection) -> None:
            work(connection)
            store.withdraw(connection, call.call_id)

        return both

    def complete(self, call_id: str) -> None:
        """All inputs of a map are there, or its caller has all outputs that it wants: its end, if it is over, is told now."""
        if not self._by_app:
            return
        at = self._now()
        self._database.write(lambda connection: store.release(connection, call_id, at)).add_done_callback(self._released)

    def _released(self, written: "asyncio.Future[None]") -> None:
        if (error := written.exception()) is not None:
            log.error("webhook_not_released", exc_info=error)  # it is due by itself, later
        self.due.set()

    def _of(self, pool: Pool) -> Sequence[Webhook]:
        app = self._apps.find(pool.function.app_id)
        if app is None:
            return ()
        found = self._by_app.get((app.environment_id, app.title), ())
        return [webhook for webhook in found if covers(webhook.function, pool.function.tag)]

    def _ends(self, outputs: Sequence[Finished]) -> Sequence[store.End]:
        last = {live.call.call_id: (live, seq, item) for live, seq, item in outputs}  # of each call: a map has many
        ends: list[store.End] = []
        for live, seq, item in last.values():
            for webhook in self._of(live.call.pool):
                ends.append(store.End(live.call.call_id, self._row(webhook, live, seq, item)))
        return ends

    def _row(self, webhook: Webhook, live: LiveInput, seq: int, item: api_pb2.FunctionGetOutputsItem) -> dict[str, Any]:
        call, at = live.call, self._now()
        due_at = at + (_map_settles_s(call) if call.is_map else _may_be_retried_s(live, item.result.status))
        return {
            "delivery_id": ids.derived(ids.WEBHOOK_DELIVERY, webhook.webhook_id, call.call_id, seq),
            "webhook_id": webhook.webhook_id,
            "call_id": call.call_id,
            "state": DeliveryState.PENDING,
            "attempts": 0,
            "tries": 0,
            "created_at": at,
            "due_at": due_at,
            "give_up_at": due_at + GIVE_UP_AFTER_S,
        }


def _map_settles_s(call: LiveCall) -> float:
    return 0.0 if call.cancelled or call.pool.closed or call.inputs_complete else MAP_SETTLE_S


def _may_be_retried_s(live: LiveInput, status: int) -> float:
    """For how long the caller may still ask for another attempt; 0: it will not."""
    call = live.call
    if status in (Result.GENERIC_STATUS_SUCCESS, Result.GENERIC_STATUS_TERMINATED):
        return 0.0
    if not call.client_retries or call.cancelled or call.pool.closed:
        return 0.0
    policy = retry_policy_of(call.pool.definition)
    if status == Result.GENERIC_STATUS_INTERNAL_FAILURE:
        return RETRY_GRACE_S if policy.retries else 0.0
    delay_s = policy.delay_s(live.retry_count)
    return 0.0 if delay_s is None else delay_s + RETRY_GRACE_S
