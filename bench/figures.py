"""Figures: percentiles of what was seen, medians over the rounds, and tables of them."""

import importlib.metadata
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

Figures = dict[str, float]


def percentiles(latencies_ms: Sequence[float], *wanted: int) -> Figures:
    """`p50_ms` and so on."""
    cuts = statistics.quantiles(latencies_ms, n=100, method="inclusive")
    return {f"p{percent}_ms": cuts[percent - 1] for percent in wanted}


def medians(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure, to four digits."""
    return {name: float(f"{statistics.median(figures[name] for figures in rounds):.4g}") for name in rounds[0]}


def surroundings() -> dict[str, object]:
    """What every figure depends on."""
    versions = {name: importlib.metadata.version(name) for name in ("modal", "grpclib", "uvloop", "protobuf")}
    return {"python": sys.version.split()[0], "interpreter": os.path.realpath(sys.executable), "cpus": os.cpu_count(), **versions}


def show(title: str, columns: Mapping[str, Figures], as_json: bool, **more: str) -> None:
    """Print figures side by side (or `{column: {figure: value}}` as one JSON object), with the surroundings, and `more` of them."""
    around = surroundings() | more
    if as_json:
        print(json.dumps({"bench": title, "surroundings": around, **columns}, indent=1))
        return
    table = Table(title=title)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    rows = dict.fromkeys(row for figures in columns.values() for row in figures)
    for row in rows:
        table.add_row(row, *(f"{figures[row]:,.4g}" if row in figures else "" for figures in columns.values()))
    console = Console(width=max(100, 24 + 16 * len(columns)))
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in around.items()), style="dim", highlight=False)
