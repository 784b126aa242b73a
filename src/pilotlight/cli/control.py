"""The line to the running server: its inner socket, which only the state's owner can open."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError

from pilotlight.cli.options import state_flag
from pilotlight.config import Settings
from pilotlight.core.errors import Busy, PilotlightError
from pilotlight.wire.platform_grpc import ControlStub

TIMEOUT_S = 20.0  # a server that is just being restarted keeps its callers waiting, on a busy machine for many seconds

Reply = TypeVar("Reply")


def not_running(settings: Settings) -> Busy:
    """What to say when there is no platform to ask."""
    return Busy(f"Pilotlight is not running (state {settings.state}). Start it: pilotlight up --detach{state_flag(settings)}")


def ask(settings: Settings, question: Callable[[ControlStub], Awaitable[Reply]], *, timeout_s: float = TIMEOUT_S) -> Reply:
    """Ask the server one question. Raises Busy when it is not there or does not answer in time, else what it answered."""

    async def asking() -> Reply:
        channel = Channel(path=str(settings.inner_socket_path))
        try:
            async with asyncio.timeout(timeout_s):
                return await question(ControlStub(channel))
        finally:
            channel.close()

    if not settings.inner_socket_path.exists():
        raise not_running(settings)
    try:
        return asyncio.run(asking())
    except PermissionError as exc:
        raise Busy(f"{settings.inner_socket_path} belongs to another user; run this command as who started Pilotlight") from exc
    except ConnectionError as exc:
        raise not_running(settings) from exc
    except (
        TimeoutError,
        StreamTerminatedError,
        AttributeError,
    ) as exc:  # AttributeError: grpclib, hung up on right after connecting
        raise Busy(f"the server does not answer within {timeout_s:.0f} s; its log: pilotlight logs server") from exc
    except GRPCError as exc:
        raise PilotlightError(exc.message or f"the server answered {exc.status.name}; its log: pilotlight logs server") from exc
