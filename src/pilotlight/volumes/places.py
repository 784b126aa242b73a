"""Where volumes lie, and the one directory beside them that is ours.

    <root>/<volume id>/                                        the files, as people and containers see them
    <root>/.pilotlight/drafts/<random>                         files that are not whole yet
    <root>/.pilotlight/trash/<random>                          what was removed and still takes room
    <root>/.pilotlight/blocks/<boot id>/<volume id>/<sha256>   blocks that were sent ahead of their files

All on one file system, so that a rename puts a file in place. Blocks are not synced one by one, and a loss of power may leave them
half written: those of an earlier boot are never looked at.
"""

import secrets
from functools import cached_property
from pathlib import Path

from pilotlight.core import errors, ids
from pilotlight.objects.syncing import sync_directory

OURS = ".pilotlight"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Places:
    """Paths below the directory of all volumes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.drafts = root / OURS / "drafts"
        self.trash = root / OURS / "trash"
        self.all_blocks = root / OURS / "blocks"

    def open(self) -> None:
        """Make the directories. Closed to other users: a container may give its files any owner and any mode."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self.drafts, self.trash, self.blocks):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @cached_property
    def blocks(self) -> Path:
        """Blocks of this boot."""
        return self.all_blocks / _BOOT_ID.read_text().strip()

    def tree(self, volume_id: str) -> Path:
        """The root of a volume; raises InvalidInput for what is no volume's id."""
        if not ids.has_prefix(volume_id, ids.VOLUME) or not volume_id.isascii():
            raise errors.InvalidInput(f"{volume_id!r} is no volume id: those start with {ids.VOLUME}-.")
        return self.root / volume_id

    def create(self, volume_id: str) -> None:
        """Make a volume's directory, with its name on disk. Safe to repeat."""
        tree = self.tree(volume_id)
        if tree.is_dir():
            return
        tree.mkdir(mode=0o755, exist_ok=True)
        tree.chmod(0o755)
        sync_directory(self.root)

    def remove(self, volume_id: str) -> None:
        """Take a volume's directory away in one step; its bytes go when the trash is emptied. Safe to repeat."""
        for place in (self.tree(volume_id), self.blocks / volume_id):
            try:
                place.rename(self.trash / secrets.token_hex(16))
            except FileNotFoundError:
                continue
        sync_directory(self.root)

    def block(self, volume_id: str, sha256_hex: str) -> Path:
        """Where a block waits for its files."""
        return self.blocks / volume_id / sha256_hex

    def draft(self) -> Path:
        """A new name for a file that is not whole yet."""
        return self.drafts / secrets.token_hex(16)
