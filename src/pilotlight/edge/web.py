"""HTTP requests to functions that speak ASGI: from the client's head to the response's last byte, or the redirect to wait on."""

import asyncio

import structlog
from starlette.types import Receive, Scope, Send

from pilotlight.core.errors import PilotlightError
from pilotlight.edge import messages
from pilotlight.edge.admission import Door, Head
from pilotlight.edge.bodies import Body
from pilotlight.edge.exchange import Containers, Exchange, Left
from pilotlight.edge.protocol import CONNECTION, HttpConnection
from pilotlight.edge.records import Record, Records
from pilotlight.edge.refusals import Refusal
from pilotlight.edge.responses import CLIENT_LEFT, Broken, Response
from pilotlight.edge.scopes import app_scope, head_of
from pilotlight.edge.waiting import Waiting, earlier_call, see_other

log = structlog.get_logger()


class Web:
    """The bridge, as an ASGI app for scopes of type http."""

    def __init__(self, door: Door, containers: Containers, records: Records, waiting: Waiting, redirect_after_s: float) -> None:
        self._door = door
        self._containers = containers
        self._records = records
        self._waiting = waiting
        self._redirect_after_s = redirect_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = head_of(scope)
        record = Record(head.method, scope["path"])
        call = _Request(self, scope, receive, head, record, Response(head.method, send, record))
        try:
            await call.serve()
        finally:
            if call.connection.gone.done() and not call.response.is_complete:
                record.status = CLIENT_LEFT
            self._records.ended(record)

    # What requests need of it.

    @property
    def door(self) -> Door:
        return self._door

    @property
    def containers(self) -> Containers:
        return self._containers

    @property
    def waiting(self) -> Waiting:
        return self._waiting

    @property
    def redirect_after_s(self) -> float:
        return self._redirect_after_s


class _Request:
    """One request on its way through the bridge."""

    def __init__(self, web: Web, scope: Scope, receive: Receive, head: Head, record: Record, response: Response) -> None:
        self._web = web
        self._scope = scope
        self._receive = receive
        self._head = head
        self._record = record
        self.response = response
        self.connection: HttpConnection = scope[CONNECTION]
        self._gone = self.connection.gone

    async def serve(self) -> None:
        """Answer it, whatever happens."""
        try:
            if call_id := earlier_call(self._head.query):
                await self._go_on(call_id)
            else:
                await self._start()
        except (Refusal, PilotlightError) as error:
            await self._give_up(error)
        except Left:
            self._record.status = CLIENT_LEFT

    async def _start(self) -> None:
        web = self._web
        entry = await web.door.enter(self._head)
        self._record.entry = entry
        self.response.ids = entry.headers
        scope = app_scope(self._scope, self._head, is_guarded=entry.route.requires_proxy_auth)
        body = Body(self._head, self._receive)
        exchange = Exchange(entry, messages.item(entry.call_id, scope, entry.route.method_name), body, web.containers)
        is_parked = False
        self._gone.add_done_callback(exchange.leave)
        try:
            if await self._begins_in_time(exchange, body):
                await self._answer(exchange, body)
            else:
                web.waiting.park(exchange)
                is_parked = True
                await self._redirect(entry.call_id)
        finally:
            self._gone.remove_done_callback(exchange.leave)
            self._note(exchange)
            self._record.bytes_in = body.size_bytes
            if not is_parked:
                body.drop()
                await exchange.close()

    async def _begins_in_time(self, exchange: Exchange, body: Body) -> bool:
        """Wait for the response; False when the client should wait on elsewhere, which needs its whole request here."""
        try:
            async with asyncio.timeout(self._web.redirect_after_s):
                await exchange.begin()
        except TimeoutError:
            await body.first()
            if body.is_whole:
                return False
            await exchange.begin()
        return True

    async def _go_on(self, call_id: str) -> None:
        """Wait on for a request that came before."""
        web = self._web
        exchange, begun = web.waiting.take(call_id, web.door.route(self._head).function_id)
        self._record.entry = exchange.entry
        self.response.ids = exchange.entry.headers
        wanted = (begun, self._gone)
        try:
            await asyncio.wait(wanted, timeout=web.redirect_after_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not begun.done() or self._gone.done():
                web.waiting.park(exchange)
        if self._gone.done():
            raise Left
        if not begun.done():
            return await self._redirect(call_id)
        web.waiting.remove(exchange)
        self._gone.add_done_callback(exchange.leave)
        try:
            await begun
            await self._answer(exchange, None)
        finally:
            self._gone.remove_done_callback(exchange.leave)
            self._note(exchange)
            await exchange.close()
        return None

    async def _answer(self, exchange: Exchange, body: Body | None) -> None:
        try:
            await self._pass_on(exchange, body)
        except (Refusal, Broken, PilotlightError) as error:
            exchange.leave()  # its end may be far off: the client does not wait for it
            await self._give_up(error)

    async def _give_up(self, error: Refusal | Broken | PilotlightError) -> None:
        if isinstance(error, Refusal) and not self.response.is_started:
            await self.response.refuse(error)
        else:
            log.warning("response_broken_off", path=self._scope["path"], cause=str(error))
            await self.connection.break_off()

    async def _pass_on(self, exchange: Exchange, body: Body | None) -> None:
        response = self.response
        while (message := await exchange.next()) is not None:
            if body is not None and body.refusal is not None and not response.is_started:
                raise body.refusal
            await response.pass_on(message)
            if response.is_complete:
                exchange.finishing()
        if not response.is_complete:
            raise (body.refusal if body is not None else None) or exchange.failure()

    async def _redirect(self, call_id: str) -> None:
        scope = self._scope
        status, headers = see_other(scope["raw_path"], scope["query_string"], call_id)
        await self.response.redirect(status, headers)

    def _note(self, exchange: Exchange) -> None:
        self._record.task_id = exchange.task_id
        self._record.waited_s = exchange.waited_s
