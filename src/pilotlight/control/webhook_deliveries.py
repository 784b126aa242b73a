"""Deliveries of completion webhooks: each is tried until its receiver has answered 2xx, or a day is over.

The body is written once, before the first attempt, and kept: every attempt sends the same bytes under the same id. What came of it
is recorded after the attempt, so a server that dies between the two sends once more what had arrived: the id tells the receiver.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from modal_proto import api_pb2
from sqlalchemy import Connection, Row
from standardwebhooks import Webhook as Signer

from pilotlight.control.environments import Environments
from pilotlight.control.webhooks import MAP_SETTLE_S, Webhook, Webhooks
from pilotlight.core import errors, plain_results
from pilotlight.core.webhooks import (
    Answer,
    DeliveryState,
    EndedCall,
    Outcome,
    covers,
    document,
    event_of,
    next_due,
)
from pilotlight.store import calls as call_rows
from pilotlight.store import webhooks as store
from pilotlight.store.database import Database

log = structlog.get_logger()

Result = api_pb2.GenericResult
DeliveryRow = Row[*tuple[Any, ...]]

OUTCOMES = ("delivered", "retried", "failed")  # of an attempt: to be tried again, given up

_FORMATS = {
    api_pb2.DATA_FORMAT_PICKLE: "pickle",
    api_pb2.DATA_FORMAT_CBOR: "cbor",
    api_pb2.DATA_FORMAT_GENERATOR_DONE: "generator",
    api_pb2.DATA_FORMAT_ASGI: "http",
}


class Sender(Protocol):
    """What posts; it answers whatever happens."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer: ...


class WebhookDeliveries:
    """Makes deliveries. `may_go_on` says of a map, by its id, whether its caller is there and may send more inputs."""

    def __init__(
        self,
        *,
        database: Database,
        webhooks: Webhooks,
        environments: Environments,
        sender: Sender,
        may_go_on: Callable[[str], bool],
        now: Callable[[], float] = time.time,
        chance: random.Random | None = None,
    ) -> None:
        self._database = database
        self._webhooks = webhooks
        self._environments = environments
        self._sender = sender
        self._may_go_on = may_go_on
        self._now = now
        self._chance = chance or random.Random()
        self.outcomes: Counter[str] = Counter()  # since the start, by OUTCOMES
        self.pending = 0  # as of the last look

    async def due(self, but_not: Collection[str], limit: int) -> Sequence[tuple[str, str]]:
        """(delivery id, webhook id) of what is to be sent now, but nothing of the webhooks in `but_not`."""
        at = self._now()
        rows = await self._database.read(lambda connection: store.due(connection, at, but_not, limit))
        return [(row.delivery_id, row.webhook_id) for row in rows]

    async def next_due_s(self) -> float | None:
        """Seconds until something is due that is not now; None: nothing waits."""
        at = self._now()
        self.pending, next_at = await self._database.read(lambda connection: store.pending(connection, at))
        return None if next_at is None else max(0.0, next_at - at)

    async def deliver(self, delivery_id: str) -> None:
        """One attempt. Nothing is sent of what was taken back, or is settled, meanwhile."""
        row = await self._database.read(lambda connection: store.delivery(connection, delivery_id))
        if row is None or row.state != DeliveryState.PENDING:
            return
        webhook = self._webhooks.get(row.webhook_id)
        body = row.body if row.body is not None else await self._write_body(row, webhook)
        if body is None:
            return
        try:
            headers = self._signed(webhook, delivery_id, body)
        except errors.WrongState as error:  # the key file is another one: it may come back within the day
            answer = Answer(0, str(error))
        else:
            answer = await self._sender.post(webhook.url, headers, body)
        await self._record(row, webhook, answer)

    def _signed(self, webhook: Webhook, delivery_id: str, body: bytes) -> dict[str, str]:
        at = datetime.fromtimestamp(int(self._now()), UTC)
        return {
            "Content-Type": "application/json",
            "webhook-id": delivery_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": Signer(self._webhooks.secret_of(webhook)).sign(delivery_id, at, body.decode()),
        }

    async def _record(self, row: DeliveryRow, webhook: Webhook, answer: Answer) -> None:
        at, tries = self._now(), row.tries + 1
        due_at = None if answer.accepted else next_due(tries, at, row.give_up_at, answer, self._chance)
        state = DeliveryState.DELIVERED if answer.accepted else DeliveryState.FAILED if due_at is None else DeliveryState.PENDING
        values: dict[str, Any] = {
            "state": state,
            "attempts": row.attempts + 1,
            "tries": tries,
            "status": answer.status,
            "problem": answer.problem or None,
            "due_at": row.due_at if due_at is None else due_at,
            "finished_at": at if due_at is None else None,
        }
        change = store.change if answer.accepted else store.change_pending  # others may have given it up meanwhile
        await self._database.write(lambda connection: change(connection, row.delivery_id, **values))
        self.outcomes["retried" if state is DeliveryState.PENDING else state.value] += 1
        log.info(
            "webhook_attempt", delivery_id=row.delivery_id, webhook_id=webhook.webhook_id, status=answer.status, state=state.value
        )
        if answer.is_gone:
            await self._webhooks.set_gone(webhook)

    async def _write_body(self, row: DeliveryRow, webhook: Webhook) -> bytes | None:
        """Put into words what the rows say of the call, once and for all. None: there is nothing to send (any more, or yet)."""
        names = {environment.environment_id: environment.name for environment in self._environments.list()}
        found = await self._database.read(lambda connection: _read(connection, row.call_id, names))
        if found is None:
            values = {
                "state": DeliveryState.FAILED,
                "finished_at": self._now(),
                "problem": "the call's results are past their time",
            }
            await self._database.write(lambda connection: store.change_untold(connection, row.delivery_id, **values))
            self.outcomes["failed"] += 1
            return None
        call, is_covered = found[0], covers(webhook.function, found[1], found[2])
        if not is_covered:
            await self._database.write(lambda connection: store.drop(connection, row.delivery_id))
            return None
        if call.outcome is None and self._may_go_on(row.call_id):
            later = {"due_at": self._now() + MAP_SETTLE_S}
            await self._database.write(lambda connection: store.change_untold(connection, row.delivery_id, **later))
            return None
        body = plain_results.to_json(document(call))
        values = {"body": body, "event": event_of(call).value}
        kept = await self._database.write(lambda connection: store.change_untold(connection, row.delivery_id, **values))
        return body if kept else None


def _read(connection: Connection, call_id: str, environments: Mapping[str, str]) -> tuple[EndedCall, str, str] | None:
    """The call with the tag of its function and, of a class, the method. None: it, or its output, is not there any more."""
    row = store.told(connection, call_id)
    counts, last_at = store.counts(connection, call_id)
    if row is None or not counts:
        return None
    outputs = call_rows.output_rows(connection, call_id, 0, None, None, 1)
    first = api_pb2.FunctionGetOutputsItem.FromString(outputs[0].item)
    method = ""
    if row.tag.endswith(".*"):
        payloads = call_rows.payloads(connection, [first.input_id])
        method = api_pb2.FunctionInput.FromString(payloads[first.input_id]).method_name
    is_map = row.kind == api_pb2.FUNCTION_CALL_TYPE_MAP
    call = EndedCall(
        call_id=row.call_id,
        app_id=row.app_id,
        app=row.name or row.description or row.app_id,
        environment=environments.get(row.environment_id, ""),
        function=row.tag[:-1] + method if method else row.tag,
        created_at=row.created_at,
        finished_at=last_at,
        cancelled=row.cancelled_at is not None,
        outcome=None if is_map else _outcome_of(first),
        counts={_status_name(status): count for status, count in counts.items()} if is_map else {},
    )
    return call, row.tag, method


def _status_name(status: int) -> str:
    return Result.GenericStatus.Name(status).removeprefix("GENERIC_STATUS_").lower()  # pyright: ignore[reportArgumentType]


def _outcome_of(item: api_pb2.FunctionGetOutputsItem) -> Outcome:
    result = item.result
    shown, omitted, items = None, "", None
    if result.status == Result.GENERIC_STATUS_SUCCESS:
        if item.data_format == api_pb2.DATA_FORMAT_GENERATOR_DONE:
            items = api_pb2.GeneratorDone.FromString(result.data).items_total
        else:
            shown, omitted = _plain_of(item)
    return Outcome(
        input_id=item.input_id,
        status=_status_name(result.status),
        started_at=item.input_started_at,
        attempts=item.retry_count + 1,
        exception=result.exception,
        result=shown,
        result_format=_FORMATS.get(item.data_format, ""),
        result_omitted=omitted,
        items=items,
    )


def _plain_of(item: api_pb2.FunctionGetOutputsItem) -> tuple[Any, str]:
    """The result, or None and why it is not shown."""
    if item.data_format == api_pb2.DATA_FORMAT_PICKLE:
        return None, "a pickled result is not opened"
    if item.result.data_blob_id or len(item.result.data) > plain_results.MAX_RESULT_BYTES:
        return None, f"the result is larger than {plain_results.MAX_RESULT_BYTES // 1024} KiB"
    if item.data_format != api_pb2.DATA_FORMAT_CBOR:
        return None, "the result is in a format that is not opened"
    try:
        return plain_results.from_cbor(item.result.data), ""
    except plain_results.NotPlain as error:
        return None, f"the result is more than JSON can say: {error}"
