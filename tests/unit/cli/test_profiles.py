"""Profiles of Modal's client: nothing of anybody else's changes."""

import tomllib
from pathlib import Path

import pytest

from pilotlight.cli.profiles import Pointing, activated, parse, pointing, with_profile, write
from pilotlight.core.errors import InvalidInput

PATH = Path("~/.modal.toml")
VALUES: dict[str, str | bool] = {
    "server_url": "http://127.0.0.1:9900",
    "token_id": "ak-1",
    "token_secret": "as-1",
    "disable_api_proxy": True,
}
CLOUD = """# mine
[work]  # the team's
token_id = "ak-9"   # kept
token_secret = "as-9"
active = true
"""


def test_in_an_empty_file_the_profile_is_active() -> None:
    text, active = with_profile("", "pilotlight", VALUES, PATH)
    assert active
    assert tomllib.loads(text) == {"pilotlight": {**VALUES, "active": True}}


def test_another_profile_stays_as_it_is_and_active() -> None:
    text, active = with_profile(CLOUD, "pilotlight", VALUES, PATH)
    assert not active
    assert text.startswith(CLOUD)
    assert tomllib.loads(text)["pilotlight"] == VALUES


def test_a_default_profile_that_was_silently_in_force_says_so_now() -> None:
    text, active = with_profile('[default]\ntoken_id = "ak-9"\n', "pilotlight", VALUES, PATH)
    assert not active
    assert tomllib.loads(text) == {"default": {"token_id": "ak-9", "active": True}, "pilotlight": VALUES}


def test_where_no_profile_was_in_force_ours_becomes_active() -> None:
    assert with_profile('[work]\ntoken_id = "ak-9"\n', "pilotlight", VALUES, PATH)[1]


def test_writing_again_updates_in_place_and_keeps_what_was_added() -> None:
    first, _ = with_profile(CLOUD, "pilotlight", VALUES, PATH)
    first = first.replace("disable_api_proxy = true", 'disable_api_proxy = true\nenvironment = "dev"  # mine') + "\n[last]\n"
    second, _ = with_profile(first, "pilotlight", {**VALUES, "token_id": "ak-2"}, PATH)
    assert second == first.replace('"ak-1"', '"ak-2"')


def test_activating_takes_turns() -> None:
    text, _ = with_profile(CLOUD, "pilotlight", VALUES, PATH)
    profiles = tomllib.loads(activated(text, "pilotlight", PATH))
    assert profiles["pilotlight"]["active"] is True
    assert profiles["work"]["active"] is False


@pytest.mark.parametrize(
    "text",
    [
        "[work\n",
        'token_id = "outside"\n',
        '[work]\nnote = """\n[pilotlight]\n"""\n',
        "pilotlight = {}\n",
        '[pilotlight]\ntoken_id = """\nak\n"""\n',
    ],
)
def test_a_file_that_can_not_be_changed_safely_is_left_alone(text: str) -> None:
    with pytest.raises(InvalidInput):
        with_profile(text, "pilotlight", VALUES, PATH)


@pytest.mark.parametrize("name", ["", "a b", "a.b", 'a"', "a]"])
def test_names_that_would_need_quotes_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        with_profile("", name, VALUES, PATH)


def test_where_plain_modal_points() -> None:
    profiles = parse(CLOUD + '[pilotlight]\nserver_url = "http://127.0.0.1:9900"\n', PATH)
    assert pointing(profiles, {}) == Pointing("https://api.modal.com", "work", "default")
    assert pointing(profiles, {"MODAL_PROFILE": "pilotlight"}) == Pointing("http://127.0.0.1:9900", "pilotlight", "MODAL_PROFILE")
    assert pointing(profiles, {"MODAL_SERVER_URL": "http://x"}) == Pointing("http://x", "work", "MODAL_SERVER_URL")


def test_the_file_is_for_its_owner_and_the_former_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "modal.toml"
    assert write(path, "[a]\n") is None
    backup = write(path, "[b]\n")
    assert path.read_text() == "[b]\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert backup is not None
    assert backup.read_text() == "[a]\n"
    assert backup.stat().st_mode & 0o777 == 0o600
