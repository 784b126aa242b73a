"""Sends what is due of the completion webhooks, so many at a time, and no receiver takes the place of all others."""

import asyncio
from collections import Counter
from dataclasses import dataclass

import structlog

from pilotlight.control.webhook_deliveries import WebhookDeliveries

log = structlog.get_logger()

AT_ONCE = 32  # attempts that are under way
AT_ONCE_PER_WEBHOOK = 4
PAUSE_AFTER_FAILURE_S = 5.0  # of ours, not of a receiver


@dataclass(slots=True)
class Report:
    """What a pass did."""

    started: int = 0


class WebhookLoop:
    """Woken by ends of calls, by attempts that are over, and by the clock when the next is due."""

    name = "webhooks"
    interval_s = 30.0
    calm_s = 0.0

    def __init__(self, deliveries: WebhookDeliveries, wake: asyncio.Event) -> None:
        self._deliveries = deliveries
        self._under_way: dict[str, tuple[str, asyncio.Task[None]]] = {}  # delivery id → its webhook, and the attempt
        self._timer: asyncio.TimerHandle | None = None
        self.wake = wake

    async def run_once(self) -> Report:
        """Start attempts until there is nothing due, or no room."""
        report = Report()
        while (room := AT_ONCE - len(self._under_way)) > 0:
            busy = Counter(webhook_id for webhook_id, _ in self._under_way.values())
            full = [webhook_id for webhook_id, count in busy.items() if count >= AT_ONCE_PER_WEBHOOK]
            found = await self._deliveries.due(full, AT_ONCE)  # of those under way some may be among them
            fresh = [(delivery_id, webhook_id) for delivery_id, webhook_id in found if delivery_id not in self._under_way]
            started = 0
            for delivery_id, webhook_id in fresh[:room]:
                if busy[webhook_id] < AT_ONCE_PER_WEBHOOK:
                    busy[webhook_id] += 1
                    started += 1
                    self._start(delivery_id, webhook_id)
            if not started:
                break
            report.started += started
        await self._look_again()
        return report

    async def close(self) -> None:
        """End what is under way; it is tried again after the next start."""
        if self._timer is not None:
            self._timer.cancel()
        attempts = [attempt for _, attempt in self._under_way.values()]
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)

    def _start(self, delivery_id: str, webhook_id: str) -> None:
        attempt = asyncio.get_running_loop().create_task(self._attempt(delivery_id))
        self._under_way[delivery_id] = (webhook_id, attempt)

    async def _attempt(self, delivery_id: str) -> None:
        try:
            await self._deliveries.deliver(delivery_id)
        except Exception as error:
            log.error("webhook_not_sent", delivery_id=delivery_id, exc_info=error)
            await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
        finally:
            del self._under_way[delivery_id]
            self.wake.set()

    async def _look_again(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        next_due_s = await self._deliveries.next_due_s()
        if next_due_s is not None:
            self._timer = asyncio.get_running_loop().call_later(next_due_s, self.wake.set)
