"""Options that all commands share, and the settings they stand for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from pilotlight.config import Settings
from pilotlight.core.errors import InvalidInput

state_option: Callable[..., Any] = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of this platform (default: $PILOTLIGHT_STATE, else ~/.local/state/pilotlight).",
)


def settings_for(state: Path | None, **flags: object) -> Settings:
    """Settings from defaults, PILOTLIGHT_* variables and those flags that were given (not None). Raises InvalidInput."""
    given = {name: value for name, value in {"state": state, **flags}.items() if value is not None}
    try:
        return Settings.model_validate(given)
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
        raise InvalidInput(f"a setting is not valid: {problems}. Look at the PILOTLIGHT_* variables of this shell.") from exc


def state_flag(settings: Settings) -> str:
    """ " --state DIR" to repeat in the commands that we recommend; empty for the default state."""
    return "" if settings.state == settings_for(None).state else f" --state {settings.state}"
