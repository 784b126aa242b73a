"""Trees that strangers have made, taken away: of any depth, with any names, and nothing beside them.

Python's own way before 3.13 goes down by recursion, which a program in a container can make too deep for it on purpose.
"""

import shutil
import subprocess
from pathlib import Path


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it; nothing happens where there is none. Links are removed, not followed. Blocks."""
    try:
        shutil.rmtree(path, ignore_errors=True)
    except RecursionError:
        subprocess.run(["rm", "--recursive", "--force", "--", str(path)], capture_output=True, check=False)
