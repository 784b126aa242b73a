"""What `pilotlight webhook deliveries` says of one."""

import pytest

from pilotlight.cli.tables import moment
from pilotlight.cli.webhooks import told
from pilotlight.wire.platform_pb2 import WebhookDelivery

DUE = moment(100.0)


@pytest.mark.parametrize(
    ("delivery", "words"),
    [
        (WebhookDelivery(state="pending", due_at=100.0), f"end of the call: due {DUE}"),
        (
            WebhookDelivery(state="pending", event="function_call.failed", attempts=2, status=500, problem="no", due_at=100.0),
            f"function_call.failed: attempt 2 failed (500 no); next {DUE}",
        ),
        (
            WebhookDelivery(state="delivered", event="function_call.completed", attempts=3, status=204),
            "function_call.completed: delivered at attempt 3 (204)",
        ),
        (
            WebhookDelivery(state="failed", event="function_call.completed", attempts=12, problem="no answer within 15 s"),
            "function_call.completed: failed at attempt 12 (no answer within 15 s)",
        ),
        (
            WebhookDelivery(state="failed", problem="the call's results are past their time"),
            "end of the call: failed before an attempt (the call's results are past their time)",
        ),
    ],
)
def test_a_delivery_in_words(delivery: WebhookDelivery, words: str) -> None:
    assert told(delivery) == words
