"""Answers to web requests that the user's code does not give: one kind of exception, and its words as a response."""

from collections.abc import Sequence

from starlette.types import Send

Header = tuple[bytes, bytes]


class Refusal(Exception):
    """A request is answered by the edge: `status`, `text` for the one who asked, and more headers."""

    def __init__(self, status: int, text: str, headers: Sequence[Header] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers

    def response(self, extra: Sequence[Header] = ()) -> tuple[int, list[Header], bytes]:
        """Status, headers and body of the answer."""
        body = f"{self.text}\n".encode()
        return self.status, [*plain_text(body), *self.headers, *extra], body


def plain_text(body: bytes) -> list[Header]:
    """The headers of such a body."""
    return [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]


async def answer(send: Send, refusal: Refusal, extra: Sequence[Header] = ()) -> int:
    """Send a refusal as the whole response to an HTTP request; the bytes of its body."""
    status, headers, body = refusal.response(extra)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return len(body)
