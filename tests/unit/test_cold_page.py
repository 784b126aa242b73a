"""Figures of cold starts on a page."""

from pathlib import Path

import pytest

from bench import cold_page

CALLS = {"no-op": {"p50": 40.0, "p95": 50.5}, "a <b>": {"p50": 1234.5, "p95": 2000.0}}
STEPS = {"median": {"client: calls": 2.0, "node: starts": 30.0, "set-up: mounts": 3.0, "container: runs": 5.0, "all": 37.0}}


def test_a_page_has_the_tables_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{cold_page.BEGIN}\nolder\n{cold_page.END}\nafter\n")
    for _ in range(2):
        cold_page.write({"calls, ms": CALLS, cold_page.STEPS: STEPS, "memory, MiB": {"MiB": {"a template": 30.0}}}, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "older" not in text
    assert "| no-op | 40 | 50.5 |" in text and "| a <b> | 1,234 | 2,000 |" in text
    assert "| a template | 30 |" in text and text.count("**Calls, ms**") == 1
    assert "| node: starts | ours | 30 |" in text and "| of the set-up: mounts | ours | 3 |" in text


def test_every_step_is_somebodys() -> None:
    assert cold_page.shares(STEPS["median"]) == {"the client's": 7.0, "ours": 30.0}


def test_a_page_without_marks_stays_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text")
    with pytest.raises(ValueError, match="figures"):
        cold_page.write({"calls, ms": CALLS}, page)
    assert page.read_text() == "text"


def test_the_plot_has_a_bar_for_each_median(tmp_path: Path) -> None:
    cold_page.plot({"calls, ms": CALLS, cold_page.STEPS: STEPS}, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert drawn.count('fill="#4878a8"') == 2 and "a &lt;b&gt;" in drawn
