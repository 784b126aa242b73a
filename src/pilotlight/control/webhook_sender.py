"""How a delivery leaves: one POST, to an address that is judged at the moment of connecting.

A name is looked up and the very addresses that came of it are checked before a socket is made for one of them, so a name that means
another address a moment later gains nothing. Redirects are not followed, proxies are not used, and little of the answer is read.

The library is loaded with the first delivery: a server that starts again is waited for, and few have webhooks.
"""

import asyncio
import errno
import socket
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pilotlight.core.webhooks import HOW_TO_ALLOW, Answer, refusal

if TYPE_CHECKING:
    import aiohttp

TIMEOUT_S = 15.0  # of an attempt, look-up of the name included
MAX_ANSWER_BYTES = 4096  # that are read of a response
SHOWN_CHARS = 200  # of them, in the list of deliveries


class WebhookSender:
    """Keeps connections to receivers; to be closed."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send once; whatever goes wrong on the way is part of the answer."""
        import aiohttp

        try:
            async with asyncio.timeout(TIMEOUT_S):
                async with self._open().post(url, data=body, headers=headers, allow_redirects=False) as response:
                    return await _answer_of(response)
        except TimeoutError:
            return Answer(0, f"no answer within {TIMEOUT_S:.0f} s")
        except aiohttp.ClientConnectorError as error:
            return Answer(0, f"can't connect to {error.host}: {error.os_error.strerror or error.os_error}")
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            return Answer(0, str(error) or type(error).__name__)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> "aiohttp.ClientSession":
        import aiohttp

        if self._session is None:
            connector = aiohttp.TCPConnector(use_dns_cache=False, socket_factory=self._socket)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),  # each attempt has its own
                headers={"User-Agent": f"Pilotlight/{version('pilotlight')}", "Accept-Encoding": "identity"},
            )
        return self._session

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """Called for each address before it is connected to: what it refuses is never spoken to."""
        family, kind, protocol, _, target = address
        if not self._allow_private and (why := refusal(str(target[0]))):
            raise OSError(errno.EACCES, f"{target[0]} is {why}: nothing is sent there. {HOW_TO_ALLOW}")
        return socket.socket(family, kind, protocol)


async def _answer_of(response: "aiohttp.ClientResponse") -> Answer:
    answer = Answer(response.status)
    start = b""
    while len(start) < MAX_ANSWER_BYTES and (piece := await response.content.read(MAX_ANSWER_BYTES - len(start))):
        start += piece
    if not response.content.at_eof():
        response.close()  # the rest is not worth its bytes
    if answer.accepted:
        return answer
    text = "".join(c if c.isprintable() else " " for c in start.decode(errors="replace"))[:SHOWN_CHARS].strip()
    if 300 <= response.status < 400:
        text = "redirects are not followed"
    after = response.headers.get("Retry-After", "")
    return Answer(response.status, text, float(after) if after.isdecimal() and len(after) < 10 else 0.0)
