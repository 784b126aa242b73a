"""Messages between the agent and a template."""

import threading

import pytest

from pilotlight.node.templates.channel import Channel, TemplateFault
from pilotlight.node.templates.patience import Patience


def test_who_waits_for_a_message_is_told_of_the_end_though_others_hold_the_other_one() -> None:
    channel, theirs = Channel.pair(Patience(600.0))
    heard: list[Exception] = []

    def receive() -> None:
        with pytest.raises(TemplateFault) as raised:
            channel.receive("ready")
        heard.append(raised.value)

    waiting = threading.Thread(target=receive, daemon=True)
    waiting.start()
    with theirs:
        channel.hang_up()
        waiting.join(60.0)
        assert heard and not waiting.is_alive()
        channel.hang_up()
    channel.close()
    channel.hang_up()
