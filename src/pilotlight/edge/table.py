"""What the server tells this edge, put where it belongs."""

from collections.abc import Sequence

from pilotlight.edge.binding import Binding
from pilotlight.edge.dispatch import FINISHING_S, Dispatch
from pilotlight.edge.proxy_auth import ProxyAuth
from pilotlight.edge.rates import Rates
from pilotlight.edge.refusals import Refusal
from pilotlight.edge.routes import Routes
from pilotlight.edge.tunnels import Tunnels
from pilotlight.wire.platform_pb2 import EdgeCommand, FailWaiting, WebLoad


class Table:
    """Applies commands, in their order."""

    def __init__(
        self, routes: Routes, dispatch: Dispatch, proxy_auth: ProxyAuth, rates: Rates, binding: Binding, tunnels: Tunnels
    ) -> None:
        self._routes = routes
        self._dispatch = dispatch
        self._proxy_auth = proxy_auth
        self._rates = rates
        self._binding = binding
        self._tunnels = tunnels

    def apply(self, commands: Sequence[EdgeCommand], is_whole: bool) -> None:
        """Do what they say; `is_whole`: what they don't mention has gone."""
        if is_whole:
            self._binding.clear()
            self._routes.keep_only({command.set_route.label for command in commands if command.HasField("set_route")})
            functions = {command.set_function.function_id for command in commands if command.HasField("set_function")}
            self._dispatch.keep_only(functions)
            self._tunnels.keep_only({command.set_tunnel.label for command in commands if command.HasField("set_tunnel")})
            if not any(command.HasField("proxy_tokens") for command in commands):
                self._proxy_auth.set(())
        for command in commands:
            self._apply(command)

    def load(self, function_id: str) -> tuple[WebLoad, float]:
        """The demand of a function, and in how many seconds it is to be said again: 0 for not unless it changes."""
        return self._dispatch.load(function_id), FINISHING_S if self._dispatch.hides_waiting(function_id) else 0.0

    def _apply(self, command: EdgeCommand) -> None:
        kind = command.WhichOneof("command")
        if kind == "set_route":
            self._routes.set(command.set_route)
        elif kind == "drop_route":
            self._routes.drop(command.drop_route.label)
        elif kind == "set_function":
            self._dispatch.set_function(command.set_function)
        elif kind == "drop_function":
            self._drop_function(command.drop_function.function_id)
        elif kind == "fail_waiting":
            self._fail_waiting(command.fail_waiting)
        elif kind == "proxy_tokens":
            self._proxy_auth.set(command.proxy_tokens.tokens)
        elif kind == "set_tunnel":
            self._tunnels.set(command.set_tunnel)
        elif kind == "drop_tunnel":
            self._tunnels.drop(command.drop_tunnel.label)

    def _drop_function(self, function_id: str) -> None:
        self._dispatch.drop_function(function_id)
        self._rates.forget(function_id)
        self._binding.forget(function_id)

    def _fail_waiting(self, told: FailWaiting) -> None:
        self._dispatch.fail_waiting(told.function_id, Refusal(told.status or 500, told.why))
