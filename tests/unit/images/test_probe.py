"""What is known of images is kept, and asked anew where what is kept says something else than it should."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pilotlight.images.probe import ImageFacts, Probe, facts_of

NOBODY: Any = None  # an image without a Python is not run


@pytest.mark.parametrize(
    "kept",
    [
        json.dumps({"layers": ["la-1"], "facts": {"python_version": "3.13.1", "of_a_newer_version": 1}}),
        json.dumps({"layers": ["la-1"], "facts": "3.13.1"}),
        json.dumps({"layers": ["la-1"]}),
        json.dumps(["la-1"]),
        '{"layers": ["la-1"], "fa',
        "",
    ],
)
def test_an_answer_of_another_version_is_asked_for_anew(tmp_path: Path, kept: str) -> None:
    def ask() -> ImageFacts:
        return asyncio.run(Probe(tmp_path, NOBODY).facts(["la-1"], (), {}))

    facts = ask()
    [path] = tmp_path.glob("*.json")
    asked = path.read_text()
    path.write_text(kept)
    assert ask() == facts == ImageFacts()
    assert path.read_text() == asked


def test_what_an_image_says_of_itself_may_be_anything() -> None:
    said = 'broken .pth\npilotlight-probe:["3.12.1", "musl", {"numpy": "2.0"}]\n'
    assert facts_of(said) == ImageFacts("3.12.1", "musl", {"numpy": "2.0"})
    for answer in ("7", '["3.12", "musl"]', '["3", "", []]', ""):
        assert facts_of(f"pilotlight-probe:{answer}") == ImageFacts()
    assert facts_of("") == ImageFacts()
    assert facts_of("pilotlight-probe:" + 100_000 * "[") == ImageFacts()
