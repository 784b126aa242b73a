"""The addresses of web functions."""

import pytest

from pilotlight.core.labels import Label, addresses_of, label_in, label_of, slug


@pytest.mark.parametrize(
    ("text", "expected"),
    [("text_to_speech", "text-to-speech"), ("ECorp", "ecorp"), ("Cls.method", "cls-method"), ("__x__", "x"), ("a b!c", "a-b-c")],
)
def test_names_become_parts_of_host_names(text: str, expected: str) -> None:
    assert slug(text) == expected


def test_a_label_says_workspace_app_and_function() -> None:
    label = label_of(workspace="ECorp", web_suffix="", app="text_to_speech", function="flask_app")
    assert label == Label("ecorp--text-to-speech-flask-app", truncated=False)


def test_environments_and_mere_runs_have_labels_of_their_own() -> None:
    label = label_of(workspace="main", web_suffix="prod", app="a", function="f", ephemeral_suffix="dev")
    assert label.text == "main-prod--a-f-dev"


def test_a_requested_label_stands_for_app_and_function() -> None:
    asked = label_of(workspace="main", web_suffix="", app="a", function="f", requested="Foo_Bar", ephemeral_suffix="me")
    assert asked.text == "main--foo-bar-me"


def test_long_labels_are_cut_and_stay_apart() -> None:
    first, second = (label_of(workspace="main", web_suffix="", app="a" * 60, function=name) for name in ("one", "two"))
    assert first.truncated
    assert second.truncated
    assert len(first.text) == len(second.text) == 63
    assert first.text[:57] == second.text[:57]
    assert first.text != second.text
    whole = label_of(workspace="main", web_suffix="", app="a" * 55, function="f")
    assert len(whole.text) == 63
    assert not whole.truncated


@pytest.mark.parametrize(
    ("domain", "port", "has_tls", "url"),
    [
        ("localhost", 9980, False, "http://main--a-f.localhost:9980"),
        ("localhost", 80, False, "http://main--a-f.localhost"),
        ("example.com", 9980, False, "https://main--a-f.example.com"),
        ("example.com", 9980, True, "https://main--a-f.example.com:9980"),
        ("example.com", 443, True, "https://main--a-f.example.com"),
    ],
)
def test_the_address_is_what_a_client_can_open(domain: str, port: int, has_tls: bool, url: str) -> None:
    addresses = addresses_of(domain, port, has_tls=has_tls)
    assert addresses.url("main--a-f") == url
    assert label_in(url) == "main--a-f"


def test_addresses_follow_the_domain() -> None:
    moved = addresses_of("example.com", 9980, has_tls=False)
    assert moved.moved("http://main--a-f.localhost:9980") == "https://main--a-f.example.com"
    assert moved.moved("") == ""
    assert moved.custom_url("api.example.org") == "https://api.example.org"
