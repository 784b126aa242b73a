"""Names of images, and what Debian can stand in for."""

import pytest

from pilotlight.core.errors import InvalidInput
from pilotlight.images.references import SUITES, debian_base, parse_reference

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("python:3.11", "docker.io/library/python:3.11"),
        ("library/python:3.11", "docker.io/library/python:3.11"),
        ("docker.io/library/python", "docker.io/library/python:latest"),
        ("nvidia/cuda:12.4.1-devel", "docker.io/nvidia/cuda:12.4.1-devel"),
        ("ghcr.io/astral-sh/uv:0.8", "ghcr.io/astral-sh/uv:0.8"),
        ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
        (f"debian:12@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
    ],
)
def test_one_way_of_writing(text: str, full: str) -> None:
    assert str(parse_reference(text)) == full
    assert parse_reference(full) == parse_reference(text) or DIGEST in text


@pytest.mark.parametrize("text", ["Python:3.11", "a b", "-x", "a:", "../etc", "a:b/c", "x@sha256:12"])
def test_what_is_no_name(text: str) -> None:
    if text == "a:":  # an empty tag is the default one
        assert parse_reference(text).tag == "latest"
        return
    with pytest.raises(InvalidInput, match="is not the name of an image"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "suite", "with_python", "note"),
    [
        ("python:3.11.12-slim-bookworm", "bookworm", True, ""),
        ("python:3.13.3-slim-bookworm", "trixie", True, "Python 3.13 comes from Debian trixie, since bookworm has Python 3.11"),
        ("python:3.11.0-slim-bullseye", "bookworm", True, "Python 3.11 comes from Debian bookworm, since bullseye has Python 3.9"),
        ("python:3.11-slim", "bookworm", True, ""),
        ("python:3-slim", "trixie", True, ""),
        ("python:slim", "trixie", True, ""),
        ("docker.io/library/python:3.13-slim-trixie", "trixie", True, ""),
        ("debian:12", "bookworm", False, ""),
        ("debian:12.5-slim", "bookworm", False, ""),
        ("debian:bookworm-slim", "bookworm", False, ""),
        ("debian:trixie-20260101-slim", "trixie", False, ""),
        ("debian", SUITES[-1].name, False, ""),
    ],
)
def test_what_debian_offers(text: str, suite: str, with_python: bool, note: str) -> None:
    base = debian_base(parse_reference(text))
    assert base is not None
    assert (base.suite.name, base.with_python, base.note) == (suite, with_python, note)


@pytest.mark.parametrize(
    "text",
    ["python:3.11-alpine", "python:3.11", "python:3.11-slim-alpine", "nvidia/cuda:12", "ghcr.io/x/python:3.11-slim", "debian:sid"],
)
def test_what_debian_does_not_offer(text: str) -> None:
    assert debian_base(parse_reference(text)) is None


def test_a_version_that_no_suite_has_lists_what_there_is() -> None:
    with pytest.raises(InvalidInput, match=r"no release of Debian has Python 3\.12\. There is Python 3\.13 \(trixie\), 3\.11"):
        debian_base(parse_reference("python:3.12.10-slim-bookworm"))
