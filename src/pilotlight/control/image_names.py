"""Published names of images: "name:tag" in an environment, each meaning the image that was published under it last."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from sqlalchemy import Connection, Row

from pilotlight.control.environments import Environment, Environments
from pilotlight.control.images import Images
from pilotlight.control.replies import RecentReplies
from pilotlight.core import errors, ids
from pilotlight.core.image_names import split
from pilotlight.core.images import ImageState
from pilotlight.store import image_names as store
from pilotlight.store.database import Database

log = structlog.get_logger()

MAX_NAMES_PER_PAGE = 1_000


class ImageNames:
    """All names of images."""

    def __init__(
        self,
        *,
        database: Database,
        environments: Environments,
        images: Images,
        workspace: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._environments = environments
        self._images = images
        self._workspace = workspace
        self._now = now
        self._replies: RecentReplies[str] = RecentReplies()

    async def publish(self, image_id: str, name: str, environment_name: str, published_by: str, key: str) -> str:
        """Let a name mean this image from now on; the id of the publication. Raises NotFound, or WrongState."""
        if (known := self._replies.get(key)) is not None:
            return known
        environment, tag = self._resolve(name, environment_name)
        image = await self._images.row(image_id)
        if ImageState(image.state) is not ImageState.BUILT:
            raise errors.WrongState(f"Image {image_id} is not built, so it can't be published as {tag!r}. Build it first.")
        revision_id = ids.new(ids.IMAGE_REVISION)
        row: dict[str, Any] = {
            "revision_id": revision_id,
            "environment_id": environment.environment_id,
            "tag": tag,
            "image_id": image_id,
            "published_by": published_by,
            "created_at": self._now(),
        }

        def apply(connection: Connection) -> str:
            known = store.newest(connection, environment.environment_id, tag)
            if known is not None and known.image_id == image_id:
                return known.revision_id
            store.add(connection, row)
            return revision_id

        published = await self._database.write(apply)
        self._replies.keep(key, published)
        log.info("image_published", image_id=image_id, tag=tag, environment=environment.name)
        return published

    async def find(self, name: str, environment_name: str) -> str:
        """The id of the image that a name means. Raises NotFound."""
        environment, tag = self._resolve(name, environment_name)
        row = await self._database.read(lambda connection: store.newest(connection, environment.environment_id, tag))
        if row is None:
            raise _missing(tag, environment)
        return row.image_id

    async def page(
        self, environment_name: str, prefix: str, image_id: str, after_tag: str, limit: int
    ) -> tuple[Environment, Sequence[Row[*tuple[Any, ...]]], str]:
        """Names of an environment in order, what each means, and the token of the next page (empty: there is none)."""
        environment = self._environments.resolve(environment_name)
        limit = min(limit or MAX_NAMES_PER_PAGE, MAX_NAMES_PER_PAGE)
        rows = await self._database.read(
            lambda connection: store.names(connection, environment.environment_id, prefix, image_id, after_tag, limit)
        )
        return environment, rows, rows[-1].tag if len(rows) == limit else ""

    async def revisions(
        self, name: str, environment_name: str, before_seq: int, limit: int
    ) -> tuple[Environment, str, Sequence[Row[*tuple[Any, ...]]], str]:
        """The publications of a name, newest first, and the token of the next page."""
        environment, tag = self._resolve(name, environment_name)
        limit = min(limit or MAX_NAMES_PER_PAGE, MAX_NAMES_PER_PAGE)
        rows = await self._database.read(
            lambda connection: store.revisions(connection, environment.environment_id, tag, before_seq, limit)
        )
        return environment, tag, rows, str(rows[-1].seq) if len(rows) == limit else ""

    async def remove(self, name: str, key: str) -> None:
        """Forget a name and its publications; the images stay. Raises NotFound."""
        if self._replies.get(key) is not None:
            return
        environment, tag = self._resolve(name, "")
        if not await self._database.write(lambda connection: store.remove(connection, environment.environment_id, tag)):
            raise _missing(tag, environment)
        self._replies.keep(key, tag)
        log.info("image_name_removed", tag=tag, environment=environment.name)

    async def remove_all_in(self, environment_id: str) -> None:
        """Their environment is deleted."""
        await self._database.write(lambda connection: store.remove_all_in(connection, environment_id))

    async def remove_image(self, image_id: str, key: str) -> None:
        """Forget an image, and its publications with it. Functions that are made of it can start no more containers."""
        if self._replies.get(key) is not None:
            return
        await self._images.remove(image_id, lambda connection: store.remove_image(connection, image_id))
        self._replies.keep(key, image_id)

    def _resolve(self, name: str, environment_name: str) -> tuple[Environment, str]:
        prefix, tag = split(name, self._workspace)
        return self._environments.resolve(prefix or environment_name), tag


def _missing(tag: str, environment: Environment) -> errors.NotFound:
    return errors.NotFound(
        f"No image is published as '{tag}' in environment '{environment.name}'. `modal image names list` shows what there is; "
        "`image.publish(name)` adds one."
    )
