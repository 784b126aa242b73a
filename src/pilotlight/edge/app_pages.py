"""What is at the address that `modal run` and `modal deploy` print for an app: no dashboard, but the commands that show it.

Anyone may open it, so it tells nothing of the app, not even whether there is one.
"""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from pilotlight.core import ids
from pilotlight.core.errors import NotFound

PATH = "/apps/{app_id}"
_TEXT = """\
{app_id} is an app on a Pilotlight, which has no dashboard. These commands show what one would:

  modal app logs {app_id}      what it prints
  modal app list                              its name and state, among all apps
  modal container list                        its containers
  modal app stop {app_id}      ends it

and on the machine itself:

  pilotlight status                           what runs, what waits and why
"""


async def app_page(request: Request) -> Response:
    """The page of one app; raises NotFound for what can't be one's id."""
    app_id: str = request.path_params["app_id"]
    if not ids.has_prefix(app_id, ids.APP):
        raise NotFound(f"there is no app {app_id!r}; `modal app list` shows those there are")
    return PlainTextResponse(_TEXT.format(app_id=app_id))
