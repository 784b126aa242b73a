"""Which requests are the edge's own whatever their host: those by a URL that the platform has signed.

A domain of a user's own may be a name by which clients reach this machine; their blobs and volumes must not go to a function then.
"""

import time
from collections.abc import Callable
from urllib.parse import parse_qsl

from pilotlight.core.errors import NotAllowed
from pilotlight.core.signing import verify

_PATHS = ("/blobs/", "/volumes/")


class OwnUrls:
    """Knows them by their signature; what has none, a wrong one, or one that has expired is for whoever has the host."""

    def __init__(self, signing_key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key = signing_key
        self._clock = clock

    def has(self, method: str, path: str, query: bytes) -> bool:
        """Whether this is one of them; the path is decoded, the query string is not."""
        if not path.startswith(_PATHS):
            return False
        try:
            verify(self._key, method, path, parse_qsl(query.decode("latin-1"), keep_blank_values=True), self._clock())
        except NotAllowed:
            return False
        return True
