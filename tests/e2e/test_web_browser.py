"""Web functions in a browser: headless Chromium opens a page of one, which fetches, streams and speaks WebSocket."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Platform

pytestmark = pytest.mark.e2e

CHROMIUM = shutil.which("chromium")
WHAT_IT_SAW = (
    "import json, modal; print(json.dumps(modal.Queue.from_name('seen-by-browser', create_if_missing=True).get(timeout=240)))"
)


def test_a_page_in_a_browser(platform: Platform, tmp_path: Path) -> None:
    if not CHROMIUM:
        pytest.skip("chromium is missing: make environment-peers")
    platform.modal("deploy", "web_browser.py", deadline_s=300)
    url = f"http://main--browser-page.localhost:{platform.web_port}/"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0")
    browser = subprocess.Popen(
        [CHROMIUM, *flags, f"--user-data-dir={tmp_path}", url],
        env=os.environ | {"TMPDIR": str(tmp_path)},  # where it leaves its sockets when it is killed
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        report = json.loads(platform.run("-c", WHAT_IT_SAW, deadline_s=270).out)
    finally:
        browser.kill()
        browser.wait()
        platform.modal("app", "stop", "--yes", "browser")
    assert report == {
        "posted": "posted äöü",
        "otherOrigin": 6,
        "aborted": "TimeoutError",
        "events": "0,1,2",
        "socket": "chat,text,1-2-255,4001,enough",
    }
