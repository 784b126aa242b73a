"""The figures of cold starts as a page has them: tables in markdown between two marks, and a plot.

A step is somebody's: the client's, on either side, or ours. The plot is SVG, which needs nothing to be drawn.
"""

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from bench.figures import Figures, surroundings

Tables = Mapping[str, Mapping[str, Figures]]

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
STEPS = "steps of the no-op's call, ms"
PART = "set-up: "  # of one step, not a step
ALL = "all"
CLIENTS = ("client: ", "container: ")  # code of the official client and of its user; the rest of a call is ours
WIDTH, LABELS, ROW, TICK = 860, 330, 22, 4  # pixels


def is_clients(step: str) -> bool:
    """Whether the client works in this step, not we."""
    return step.startswith(CLIENTS)


def shares(steps: Figures) -> Figures:
    """Whose how much of the call is."""
    own = {name: took_ms for name, took_ms in steps.items() if not name.startswith(PART) and name != ALL}
    clients = sum(took_ms for name, took_ms in own.items() if is_clients(name))
    return {"the client's": clients, "ours": sum(own.values()) - clients}


def write(tables: Tables, page: Path) -> None:
    """Put the tables between the marks of a page; raises ValueError where it has none."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no {BEGIN} … {END}")
    page.write_text(f"{before}{BEGIN}\n\n{markdown(tables)}\n{END}{after}")


def markdown(tables: Tables) -> str:
    """All tables, and what they depend on."""
    pieces: list[str] = []
    for title, rows in tables.items():
        pieces += [f"**{title[0].upper()}{title[1:]}**\n", *(_steps(rows) if title == STEPS else _table(rows)), ""]
    around = ", ".join(f"{name} {value}" for name, value in surroundings().items() if name != "interpreter")
    return "\n".join([*pieces, f"On {around}.", ""])


def _table(rows: Mapping[str, Figures]) -> Iterable[str]:
    columns = list(dict.fromkeys(column for figures in rows.values() for column in figures))
    if len(rows) == 1:  # its figures are of different things: one below the other
        [(name, figures)] = rows.items()
        columns, rows = [name], {label: {name: value} for label, value in figures.items()}
    yield _line(["", *columns])
    yield "|---" + "|---:" * len(columns) + "|"
    for name, figures in rows.items():
        yield _line([name, *(_figure(figures.get(column)) for column in columns)])


def _steps(columns: Mapping[str, Figures]) -> Iterable[str]:
    """One row per step, and whose it is; then the sums, then the parts of our largest step."""
    rows = list(dict.fromkeys(row for figures in columns.values() for row in figures))
    sums = {name: shares(figures) for name, figures in columns.items()}
    yield _line(["step", "whose", *columns])
    yield "|---|---" + "|---:" * len(columns) + "|"
    for row in (row for row in rows if not row.startswith(PART) and row != ALL):
        whose = "the client's" if is_clients(row) else "ours"
        yield _line([row, whose, *(_figure(figures.get(row)) for figures in columns.values())])
    for whose in ("the client's", "ours"):
        yield _line(["**together**", whose, *(f"**{_figure(figures[whose])}**" for figures in sums.values())])
    yield _line(["**the call** (a median of its own)", "", *(f"**{_figure(figures.get(ALL))}**" for figures in columns.values())])
    for row in (row for row in rows if row.startswith(PART)):
        yield _line(
            [f"of the set-up: {row.removeprefix(PART)}", "ours", *(_figure(figures.get(row)) for figures in columns.values())]
        )


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def plot(tables: Tables, path: Path) -> None:
    """Bars of all medians, with a mark at the 95th percentile."""
    bars = {name: figures for rows in tables.values() for name, figures in rows.items() if "p50" in figures}
    longest = max(figures["p95"] for figures in bars.values())
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{ROW * len(bars) + ROW}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (name, figures) in enumerate(bars.items()):
        top = ROW * number + ROW // 2
        ends = {which: LABELS + (WIDTH - LABELS - 80) * figures[which] / longest for which in ("p50", "p95")}
        drawn += [
            f'<text x="{LABELS - 6}" y="{top + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LABELS}" y="{top + TICK}" width="{ends["p50"] - LABELS:.1f}" height="{ROW - 2 * TICK}" fill="#4878a8"/>',
            f'<path d="M{ends["p95"]:.1f} {top + 1}v{ROW - 2}" stroke="#333"/>',
            f'<text x="{ends["p95"] + 5:.1f}" y="{top + 14}">{_figure(figures["p50"])} ms</text>',
        ]
    path.write_text("\n".join([*drawn, "</svg>", ""]))
