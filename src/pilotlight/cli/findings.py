"""What a check of `doctor` answers."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One check's answer. A problem stops `up` or the containers; a warning names what works less well. `mend` is a command."""

    check: str
    level: Level
    message: str
    mend: str = ""
