"""Profiles of Modal's client, in `~/.modal.toml`: read as the client reads them, changed without touching anything else.

The file is edited as text (comments and order stay), and the result is parsed again: if any other profile would read differently,
nothing is written.
"""

import re
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotlight.core.errors import InvalidInput

DEFAULT_PROFILE = "default"
DEFAULT_SERVER_URL = "https://api.modal.com"
NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")

Profile = dict[str, Any]


@dataclass(frozen=True)
class Pointing:
    """Where plain `modal` goes: server URL, the profile in force, and what decided ("MODAL_SERVER_URL", "profile", "default")."""

    server_url: str
    profile: str
    because: str


def parse(text: str, path: Path) -> dict[str, Profile]:
    """The profiles of a file by name. Raises InvalidInput where it is not what the client could read."""
    try:
        profiles = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise InvalidInput(f"{path} can't be read ({exc}). Mend or move that file, then try again.") from exc
    if not all(isinstance(profile, dict) for profile in profiles.values()):
        raise InvalidInput(f"{path} holds values outside of profiles. Mend or move that file, then try again.")
    return profiles


def active_profile(profiles: Mapping[str, Profile]) -> str:
    """The profile that the client uses when MODAL_PROFILE is not set."""
    return next((name for name, values in profiles.items() if values.get("active") is True), DEFAULT_PROFILE)


def pointing(profiles: Mapping[str, Profile], environment: Mapping[str, str]) -> Pointing:
    """Where plain `modal` goes with these profiles and MODAL_* variables."""
    profile = environment.get("MODAL_PROFILE") or active_profile(profiles)
    if url := environment.get("MODAL_SERVER_URL"):
        return Pointing(url, profile, "MODAL_SERVER_URL")
    if url := profiles.get(profile, {}).get("server_url"):
        return Pointing(str(url), profile, "MODAL_PROFILE" if environment.get("MODAL_PROFILE") else "profile")
    return Pointing(DEFAULT_SERVER_URL, profile, "default")


def _quoted(value: str | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _section(lines: list[str], name: str) -> tuple[int, int] | None:
    """Where a profile's header is and where the next one begins."""
    header = re.compile(rf"""\s*\[\s*["']?{re.escape(name)}["']?\s*\]\s*(#.*)?$""")
    start = next((i for i, line in enumerate(lines) if header.match(line)), None)
    if start is None:
        return None
    end = next((i for i in range(start + 1, len(lines)) if lines[i].lstrip().startswith("[")), len(lines))
    return start, end


def _with_values(text: str, name: str, values: Mapping[str, str | bool]) -> str:
    lines = text.splitlines()
    found = _section(lines, name)
    if found is None:
        gap = [""] if lines and lines[-1].strip() else []
        lines += [*gap, f"[{name}]", *(f"{key} = {_quoted(value)}" for key, value in values.items())]
        return "\n".join(lines) + "\n"
    start, end = found
    body = lines[start + 1 : end]
    for key, value in values.items():
        setting = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*=""")
        fresh = f"{key} = {_quoted(value)}"
        position = next((i for i, line in enumerate(body) if setting.match(line)), None)
        if position is None:
            last = max((i for i, line in enumerate(body) if line.strip()), default=-1)
            body.insert(last + 1, fresh)
        else:
            body[position] = fresh
    return "\n".join([*lines[: start + 1], *body, *lines[end:]]) + "\n"


def with_profile(text: str, name: str, values: Mapping[str, str | bool], path: Path) -> tuple[str, bool]:
    """The file's text with a profile added or updated, and whether plain `modal` uses it now.

    It becomes the active one where no other profile was in force. Where another was in force without saying so, it says so
    from now on: the client refuses a file of several profiles of which none is active. Raises InvalidInput.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidInput(f"{name!r} can't be a profile's name: use letters, digits, hyphens and underscores")
    others = parse(text, path)
    former = others.pop(name, {})
    in_force = active_profile({**others, name: former})
    changes: dict[str, dict[str, str | bool]] = {name: dict(values)}
    if in_force not in others:
        changes[name]["active"] = True
    elif "active" not in others[in_force]:
        changes[in_force] = {"active": True}
    return _changed(text, changes, path), in_force not in others


def activated(text: str, name: str, path: Path) -> str:
    """The file's text with this profile as the one that plain `modal` uses. Raises InvalidInput."""
    formerly = [other for other, values in parse(text, path).items() if values.get("active") and other != name]
    return _changed(text, {name: {"active": True}} | {other: {"active": False} for other in formerly}, path)


def _changed(text: str, changes: Mapping[str, Mapping[str, str | bool]], path: Path) -> str:
    wanted = parse(text, path)
    for name, values in changes.items():
        wanted[name] = {**wanted.get(name, {}), **values}
        text = _with_values(text, name, values)
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        found = {}
    if found != wanted:
        raise InvalidInput(f"{path} is written in a way that can't be changed safely. Change it by hand: {', '.join(changes)}")
    return text


def write(path: Path, text: str) -> Path | None:
    """Put the text in place, readable by its owner only: the path of the copy kept of what was there, if anything was."""
    path = path.resolve()  # a link to a file kept elsewhere stays a link
    backup: Path | None = None
    if path.exists():
        backup = path.with_name(path.name + ".before-pilotlight")
        shutil.copy2(path, backup)
        backup.chmod(0o600)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(path)
    return backup
