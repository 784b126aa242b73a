"""What the flags of `pilotlight up` become."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from pilotlight.cli import lifecycle
from pilotlight.config import Settings


def chosen(monkeypatch: pytest.MonkeyPatch, *flags: str) -> Settings:
    found: list[Settings] = []
    monkeypatch.setattr(lifecycle, "bring_up", lambda settings, **_: found.append(settings))
    done = CliRunner().invoke(lifecycle.up, flags)
    assert done.exit_code == 0, done.output
    return found[0]


def test_what_templates_may_have_is_a_flag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert chosen(monkeypatch, "--state", str(tmp_path), "--warm-memory", "300").warm_memory_mib == 300
    assert chosen(monkeypatch, "--state", str(tmp_path)).warm_memory_mib == 0


def test_less_than_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(lifecycle.up, ["--warm-memory", "-1"]).exit_code == 2
