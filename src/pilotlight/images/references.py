"""Names of base images, and which of them Debian itself can stand in for.

Invariant: a reference is written in one way only: "python:3.11", "library/python:3.11" and "docker.io/library/python:3.11" are the
same image.
"""

import re
from dataclasses import dataclass

from pilotlight.core.errors import InvalidInput

DEFAULT_DOMAIN = "docker.io"
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*")
_DOMAIN = re.compile(r"[A-Za-z0-9]+(?:[.-]+[A-Za-z0-9]+)*(?::\d+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]{32,}")


@dataclass(frozen=True)
class Reference:
    """An image's name: registry, repository, tag or digest."""

    domain: str
    repository: str
    tag: str
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.domain}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    @property
    def official(self) -> str:
        """The name of an official image such as "python"; empty for any other."""
        name = self.repository.removeprefix("library/")
        return name if self.domain == DEFAULT_DOMAIN and "/" not in name else ""


def parse_reference(text: str) -> Reference:
    """Read what FROM or --from names; errors: InvalidInput."""
    rest, _, digest = text.partition("@")
    head, slash, tail = rest.partition("/")
    has_domain = bool(slash) and ("." in head or ":" in head or head == "localhost")
    domain, path = (head, tail) if has_domain else (DEFAULT_DOMAIN, rest)
    repository, _, tag = path.partition(":")
    if domain in ("index.docker.io", "registry-1.docker.io"):
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in repository:
        repository = f"library/{repository}"
    tag = tag or "latest"
    is_name = _DOMAIN.fullmatch(domain) and _REPOSITORY.fullmatch(repository)
    if not is_name or not _TAG.fullmatch(tag) or (digest and not _DIGEST.fullmatch(digest)):
        raise InvalidInput(f"{text!r} is not the name of an image. Write it as [registry/]name[:tag], in lower case.")
    return Reference(domain, repository, tag, digest)


@dataclass(frozen=True)
class Suite:
    """A release of Debian and the Python that comes with it."""

    name: str
    number: str
    python: str


SUITES = (Suite("bookworm", "12", "3.11"), Suite("trixie", "13", "3.13"))  # that bases are made of, oldest first
RETIRED = (Suite("buster", "10", "3.7"), Suite("bullseye", "11", "3.9"))  # still asked for by old programs
_BY_NAME = {key: suite for suite in SUITES for key in (suite.name, suite.number)} | {"stable": SUITES[-1], "latest": SUITES[-1]}
_PYTHON_TAG = re.compile(r"(?:(\d+)(?:\.(\d+)(?:\.\d+)?)?-)?slim(?:-([a-z]+))?")
_DEBIAN_TAG = re.compile(r"([a-z]+|\d+)(?:\.\d+)?(?:-\d{8})?(?:-slim)?")


@dataclass(frozen=True)
class DebianBase:
    """What is to be made from a Debian mirror in place of an official image; `note` says where it differs from what was asked."""

    suite: Suite
    with_python: bool
    note: str = ""


def debian_base(reference: Reference) -> DebianBase | None:
    """What Debian can offer for this reference, None where it is not an official Python or Debian image.

    Errors: InvalidInput for a version of Python that no suite has.
    """
    if reference.digest:
        return None
    if reference.official == "debian" and (match := _DEBIAN_TAG.fullmatch(reference.tag)):
        suite = _BY_NAME.get(match[1])
        return DebianBase(suite, with_python=False) if suite else None
    if reference.official == "python" and (match := _PYTHON_TAG.fullmatch(reference.tag)):
        return _python_base(reference, match[1], match[2], match[3])
    return None


def _python_base(reference: Reference, major: str | None, minor: str | None, suite_name: str | None) -> DebianBase | None:
    asked = next((suite for suite in (*SUITES, *RETIRED) if suite.name == suite_name), None)
    if suite_name and asked is None:
        return None
    if major and not minor and major != "3":
        minor = "0"
    wanted = f"{major}.{minor}" if minor else (asked or SUITES[-1]).python
    suite = next((suite for suite in SUITES if suite.python == wanted), None)
    if suite is None:
        offers = ", ".join(f"{suite.python} ({suite.name})" for suite in reversed(SUITES))
        raise InvalidInput(
            f"Base image {reference} can't be made: no registry answers, and no release of Debian has Python {wanted}. "
            f"There is Python {offers}. Ask for one of these, or import the image: pilotlight image import {reference} PATH."
        )
    if asked is None or asked == suite:
        return DebianBase(suite, with_python=True)
    note = f"Python {wanted} comes from Debian {suite.name}, since {asked.name} has Python {asked.python}"
    return DebianBase(suite, with_python=True, note=note)
