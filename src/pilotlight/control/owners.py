"""Where objects belong, as a rule from memory: nothing ever moves from one environment or app to another."""

from collections import OrderedDict

from pilotlight.control.apps import Apps
from pilotlight.control.calls import Calls
from pilotlight.control.functions import Functions
from pilotlight.core.permissions import Kind, Owner
from pilotlight.store import owners as store
from pilotlight.store.database import Database

MAX_KNOWN = 50_000  # owners that are kept in memory


class Owners:
    """Finds out whose an id is."""

    def __init__(self, *, database: Database, apps: Apps, functions: Functions, calls: Calls) -> None:
        self._database = database
        self._apps = apps
        self._functions = functions
        self._calls = calls
        self._known: OrderedDict[tuple[Kind, str], Owner] = OrderedDict()

    async def of(self, kind: Kind, object_id: str) -> Owner | None:
        """The owner of an object; None where there is no such object (any more)."""
        owner = self._known.get((kind, object_id)) or self._at_hand(kind, object_id)
        if owner is not None:
            return owner
        owner = await self._database.read(lambda connection: store.owner_of(connection, kind, object_id))
        if owner is not None:
            self._known[kind, object_id] = owner
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return owner

    def _at_hand(self, kind: Kind, object_id: str) -> Owner | None:
        if kind is Kind.APP:
            app = self._apps.find(object_id)
            return Owner(app.environment_id) if app is not None else None
        if kind is Kind.CALL:
            call = self._calls.find(object_id)
            function = call.pool.function if call is not None else None
        elif kind is Kind.FUNCTION:
            function = self._functions.find(object_id)
        else:
            return None
        app = self._apps.find(function.app_id) if function is not None else None
        if function is None or app is None:
            return None
        own = (function.function_id,) if kind is Kind.CALL else ()
        return Owner(app.environment_id, (*own, function.parent_id) if function.parent_id else own)
