"""What a published image may be called: "name:tag", with its environment in front where one is named."""

from pilotlight.core.errors import InvalidInput
from pilotlight.core.names import check_object_name

DEFAULT_TAG = "latest"


def split(name: str, workspace: str) -> tuple[str, str]:
    """The environment in front of a name (maybe empty), and its "name:tag". Raises InvalidInput for what can't be a name."""
    *places, last = name.split("/")
    if len(places) == 2 and places[0] == workspace:
        places = places[1:]
    if len(places) > 1:
        raise InvalidInput(f"{name!r} can't be the name of an image: '[environment/]name[:tag]' is, in workspace {workspace!r}.")
    base, _, tag = last.partition(":")
    if base.startswith("im-"):
        raise InvalidInput(f"{name!r} can't be the name of an image: 'im-' is how the ids of images begin.")
    check_object_name(base, "image")
    check_object_name(tag or DEFAULT_TAG, "tag")
    return places[0] if places else "", f"{base}:{tag or DEFAULT_TAG}"
