"""Rows of completion webhooks and of their deliveries.

A delivery's row comes to be in the transaction that records the output it tells of. Until its body is written it is only an
intention, which a call that goes on takes back.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from pilotlight.core.inputs import Recorded
from pilotlight.core.webhooks import DeliveryState
from pilotlight.store.tables import apps, calls, functions, inputs, outputs, webhook_deliveries, webhooks

_DELIVERY_COLUMNS = tuple(column for column in webhook_deliveries.c if column.name != "body")
_UNTOLD = (webhook_deliveries.c.state == DeliveryState.PENDING, webhook_deliveries.c.body.is_(None))


@dataclass(frozen=True, slots=True)
class End:
    """A call that ends with the outputs of this transaction, if none of its inputs is unfinished then."""

    call_id: str
    row: dict[str, Any]  # of the delivery


def add(connection: Connection, row: dict[str, Any]) -> None:
    connection.execute(insert(webhooks), row)


def all_webhooks(connection: Connection) -> Sequence[Row[*tuple[Any, ...]]]:
    """Oldest first."""
    return connection.execute(select(*webhooks.c).order_by(webhooks.c.created_at)).all()


def remove(connection: Connection, webhook_ids: Collection[str]) -> int:
    """Remove webhooks with their deliveries; returns how many of these were still to be made."""
    mine = webhook_deliveries.c.webhook_id.in_(webhook_ids)
    pending = webhook_deliveries.c.state == DeliveryState.PENDING
    count = connection.execute(select(func.count()).select_from(webhook_deliveries).where(mine, pending)).scalar_one()
    connection.execute(delete(webhook_deliveries).where(mine))
    connection.execute(delete(webhooks).where(webhooks.c.webhook_id.in_(webhook_ids)))
    return count


def set_gone(connection: Connection, webhook_id: str, at: float, problem: str) -> None:
    """Nothing more is sent there: what waits is given up."""
    connection.execute(update(webhooks).where(webhooks.c.webhook_id == webhook_id).values(gone_at=at))
    waiting = (webhook_deliveries.c.webhook_id == webhook_id, webhook_deliveries.c.state == DeliveryState.PENDING)
    given_up = {"state": DeliveryState.FAILED, "finished_at": at, "problem": problem}
    connection.execute(update(webhook_deliveries).where(*waiting).values(**given_up))


# ---- with the outputs of calls ----


def announce(connection: Connection, ends: Sequence[End]) -> None:
    """Keep the deliveries of the calls that have no unfinished input; the same delivery again changes nothing."""
    going_on = {call_id for call_id in {end.call_id for end in ends} if _has_unfinished(connection, call_id)}
    rows = [end.row for end in ends if end.call_id not in going_on]
    if rows:
        connection.execute(upsert(webhook_deliveries).on_conflict_do_nothing(), rows)


def _has_unfinished(connection: Connection, call_id: str) -> bool:
    query = select(inputs.c.idx).where(inputs.c.state == Recorded.UNFINISHED, inputs.c.call_id == call_id)
    return connection.execute(query.limit(1)).first() is not None


def withdraw(connection: Connection, call_id: str) -> None:
    """The call goes on: nothing is told of an end that nobody has heard of yet."""
    connection.execute(delete(webhook_deliveries).where(webhook_deliveries.c.call_id == call_id, *_UNTOLD))


def release(connection: Connection, call_id: str, at: float) -> None:
    """The call does not go on: what was held back for that is due now."""
    statement = update(webhook_deliveries).where(webhook_deliveries.c.call_id == call_id, *_UNTOLD)
    connection.execute(statement.where(webhook_deliveries.c.due_at > at).values(due_at=at))


# ---- deliveries ----


def due(connection: Connection, at: float, but_not: Collection[str], limit: int) -> Sequence[Row[*tuple[Any, ...]]]:
    """(delivery id, webhook id) of what is due, longest due first; none of the webhooks named in `but_not`."""
    query = select(webhook_deliveries.c.delivery_id, webhook_deliveries.c.webhook_id).where(
        webhook_deliveries.c.state == DeliveryState.PENDING,
        webhook_deliveries.c.due_at <= at,
        webhook_deliveries.c.webhook_id.not_in(but_not),
    )
    return connection.execute(query.order_by(webhook_deliveries.c.due_at).limit(limit)).all()


def pending(connection: Connection, after: float) -> tuple[int, float | None]:
    """How many deliveries are still to be made, and when the first of those is due that are due after this moment."""
    waiting = webhook_deliveries.c.state == DeliveryState.PENDING
    count = connection.execute(select(func.count()).select_from(webhook_deliveries).where(waiting)).scalar_one()
    later = select(func.min(webhook_deliveries.c.due_at)).where(waiting, webhook_deliveries.c.due_at > after)
    return count, connection.execute(later).scalar()


def delivery(connection: Connection, delivery_id: str) -> Row[*tuple[Any, ...]] | None:
    """One delivery, with its body."""
    return connection.execute(select(*webhook_deliveries.c).where(webhook_deliveries.c.delivery_id == delivery_id)).one_or_none()


def deliveries(connection: Connection, webhook_id: str, limit: int) -> Sequence[Row[*tuple[Any, ...]]]:
    """Deliveries of a webhook (empty: of all), without their bodies, newest first."""
    query = select(*_DELIVERY_COLUMNS)
    if webhook_id:
        query = query.where(webhook_deliveries.c.webhook_id == webhook_id)
    return connection.execute(query.order_by(webhook_deliveries.c.created_at.desc()).limit(limit)).all()


def change(connection: Connection, delivery_id: str, **values: Any) -> bool:
    """Change a delivery; False if it is there no more."""
    statement = update(webhook_deliveries).where(webhook_deliveries.c.delivery_id == delivery_id)
    return connection.execute(statement.values(**values)).rowcount == 1


def change_pending(connection: Connection, delivery_id: str, **values: Any) -> bool:
    """Change a delivery that is not settled; False if it is, or is there no more."""
    mine = (webhook_deliveries.c.delivery_id == delivery_id, webhook_deliveries.c.state == DeliveryState.PENDING)
    return connection.execute(update(webhook_deliveries).where(*mine).values(**values)).rowcount == 1


def change_untold(connection: Connection, delivery_id: str, **values: Any) -> bool:
    """Change a delivery of which nothing was sent; False if it was taken back, or somebody was faster."""
    statement = update(webhook_deliveries).where(webhook_deliveries.c.delivery_id == delivery_id, *_UNTOLD)
    return connection.execute(statement.values(**values)).rowcount == 1


def drop(connection: Connection, delivery_id: str) -> None:
    connection.execute(delete(webhook_deliveries).where(webhook_deliveries.c.delivery_id == delivery_id))


def delete_old(connection: Connection, before: float, limit: int) -> int:
    """Forget deliveries that were made, or given up, and began before this moment; returns how many."""
    old = select(webhook_deliveries.c.delivery_id).where(
        webhook_deliveries.c.created_at < before, webhook_deliveries.c.state != DeliveryState.PENDING
    )
    statement = delete(webhook_deliveries).where(webhook_deliveries.c.delivery_id.in_(old.limit(limit)))
    return connection.execute(statement).rowcount


# ---- what a delivery tells ----


def told(connection: Connection, call_id: str) -> Row[*tuple[Any, ...]] | None:
    """The call with its function's tag, and its app's name, description and environment."""
    query = select(
        calls.c.call_id,
        calls.c.kind,
        calls.c.created_at,
        calls.c.cancelled_at,
        calls.c.app_id,
        functions.c.tag,
        apps.c.name,
        apps.c.description,
        apps.c.environment_id,
    ).select_from(calls.join(functions, functions.c.function_id == calls.c.function_id).join(apps, apps.c.app_id == calls.c.app_id))
    return connection.execute(query.where(calls.c.call_id == call_id)).one_or_none()


def counts(connection: Connection, call_id: str) -> tuple[dict[int, int], float]:
    """How many outputs of a call have which status, and when its last came."""
    query = select(outputs.c.status, func.count(), func.max(outputs.c.created_at)).where(outputs.c.call_id == call_id)
    rows = connection.execute(query.group_by(outputs.c.status)).all()
    return {status: count for status, count, _ in rows}, max((last for *_, last in rows), default=0.0)
