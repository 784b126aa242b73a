"""How tables and times look in the terminal."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_ID = re.compile(r"[a-z]{2}-[A-Za-z0-9]{22}")


def moment(seconds: float) -> str:
    """A time of the epoch in local time, to the second; empty for 0 (never)."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S") if seconds else ""


def lasting(seconds: float) -> str:
    """A duration in its two largest units: "3 d 4 h", "12 s"."""
    units = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")]
    parts: list[str] = []
    rest = int(seconds)
    for size, name in units:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) or "0 s"


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; with no rows, its columns only, so that scripts and people see the same shape."""
    table = Table(*columns, title=title or None, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"  # in a narrow terminal nothing is lost
    for row in rows:
        cells = [str(value) for value in row]
        table.add_row(*(escape(cell) for cell in cells))
        for column, cell in zip(table.columns, cells, strict=True):
            if _ID.fullmatch(cell):  # to be copied, so never cut
                column.no_wrap, column.min_width = True, len(cell)
    Console(soft_wrap=not Console().is_terminal).print(table)
