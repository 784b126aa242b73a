"""What HTTP makes of our errors: one table, and words in the body."""

import secrets

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from pilotlight.core import errors

log = structlog.get_logger()

STATUS: dict[type[errors.PilotlightError], int] = {
    errors.InvalidInput: 400,
    errors.BadCredentials: 401,
    errors.NotAllowed: 403,
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.WrongState: 409,
    errors.LostRace: 409,
    errors.OverLimit: 429,
    errors.DiskFull: 507,
    errors.Busy: 503,
    errors.NotBuilt: 501,
}
_CLIENT_LEFT = 499  # nobody reads it; it tells the metrics apart


async def refuse(request: Request, error: Exception) -> Response:
    """The answer to a request that failed with an error of ours."""
    assert isinstance(error, errors.PilotlightError)
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
    log.debug("request_refused", path=request.url.path, status=status, reason=str(error), **error.context)
    headers: dict[str, str] = {}
    if isinstance(error, errors.OverLimit) and error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return PlainTextResponse(f"{error}\n", status, headers)


class BodyStalled(Exception):
    """The body of a request stopped coming while its connection stayed open."""


async def stalled(request: Request, error: Exception) -> Response:
    """Half a body never becomes a whole one: the client is told to send it anew, on another connection."""
    assert isinstance(error, BodyStalled)
    log.info("request_body_stalled", path=request.url.path)
    return PlainTextResponse(f"{error}\n", 408, {"connection": "close"})


async def abandon(request: Request, error: Exception) -> Response:
    """The client broke its request off."""
    assert isinstance(error, ClientDisconnect)
    log.debug("request_broken_off", path=request.url.path)
    return PlainTextResponse("", _CLIENT_LEFT)


async def fail(request: Request, error: Exception) -> Response:
    """A bug of ours: logged under an id, details withheld."""
    trace_id = secrets.token_hex(8)
    log.error("request_failed", path=request.url.path, trace_id=trace_id, exc_info=error)
    return PlainTextResponse(
        f"the platform failed on this request; its operator finds out why under {trace_id} in the edge's log\n", 500
    )
