"""Containers that are forked from templates, through the stock client: what they know, and what happens when templates end."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import FIRST_BUILD_S, PROGRAMS, Platform, cgroups, content

from pilotlight.config import SETTINGS_FILE, Settings
from pilotlight.node.templates.bursts import MOST_SPARES

pytestmark = pytest.mark.e2e

STARTS_TRIED = 20
LEFT_S = 90.0
EXPECTED_S = 120.0
CALL = "import modal; print(modal.Function.from_name('templates', 'where').remote())"
CALL_OFTEN = f"""
import modal
for _ in range({2 * MOST_SPARES}):
    modal.Function.from_name("templates", "where").remote()
"""
CALL_UNTIL_WARM = f"""
import modal
for number in range({STARTS_TRIED}):
    found = modal.Function.from_name("templates", "where").remote()
    if found["warm"]:
        break
print(found)
"""
BEGIN_SLOW = """
import modal, time
said = modal.Dict.from_name("templates", create_if_missing=True)
call = modal.Function.from_name("templates", "slow").spawn("{name}")
while "{name} began" not in said:
    time.sleep(0.1)
print(call.object_id, said["{name} began"])
"""
END_SLOW = """
import modal
modal.Dict.from_name("templates")["{name} may end"] = True
print(modal.FunctionCall.from_id("{call}").get(timeout=60))
"""


@pytest.fixture(scope="module")
def warm(platform: Platform) -> Iterator[Platform]:
    if not Settings.load(platform.settings.run_dir / SETTINGS_FILE).warm_starts:
        pytest.skip("this platform has warm_starts off")
    platform.modal("deploy", "templates.py", deadline_s=FIRST_BUILD_S)
    yield platform
    platform.modal("app", "stop", "--yes", "templates")


def groups(platform: Platform, kind: str) -> dict[str, set[int]]:
    """The processes of each template ("template") or spare ("spare"), by the group's name."""
    found: dict[str, set[int]] = {}
    ours = cgroups(f"pilotlight-{platform.settings.instance}")
    for entrance in (path for group in ours for path in group.glob(f"{kind}-*/cgroup.procs")):
        try:
            found.setdefault(entrance.parent.name, set()).update(map(int, entrance.read_text().split()))
        except OSError:  # it has just been removed
            continue
    return found


def interpreters(platform: Platform) -> set[int]:
    processes = {process for group in groups(platform, "template").values() for process in group}
    # A child on its way into a group of its own may be among them, and gone before it is looked at.
    return {process for process in processes if b"modal._container_entrypoint" in content(Path(f"/proc/{process}/cmdline"))}


def memory_of(process: int) -> bytes:
    """All that it has written itself."""
    pieces: list[bytes] = []
    with Path(f"/proc/{process}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                begin, end = (int(number, 16) for number in span.split("-"))
                memory.seek(begin)
                pieces.append(memory.read(end - begin))
    return b"".join(pieces)


def began(process: int) -> bytes:
    """When it began, since its number may be another's later; empty if there is none."""
    fields = content(Path(f"/proc/{process}/stat")).rpartition(b")")[2].split()
    return fields[19] if fields else b""


def until(holds: Callable[[], bool], limit_s: float = LEFT_S, what: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def test_containers_are_forked_and_have_their_secret(warm: Platform) -> None:
    assert warm.run("-c", CALL_UNTIL_WARM).out.strip() == "{'warm': True, 'secret': 'canary-of-one-function-0f3a'}"


def test_a_template_and_its_spares_know_no_secret(warm: Platform) -> None:
    warm.run("-c", CALL_UNTIL_WARM)
    processes = interpreters(warm) | {process for group in groups(warm, "spare").values() for process in group}
    assert processes
    for process in processes:
        try:
            assert b"canary-of-one-function" not in memory_of(process), process
        except (FileNotFoundError, ProcessLookupError):  # a spare that has just become a container, and ended
            continue


def test_containers_survive_their_template_and_calls_need_none(warm: Platform) -> None:
    warm.run("-c", CALL_UNTIL_WARM)
    call, was_warm = warm.run("-c", BEGIN_SLOW.format(name="survivor")).out.split()
    assert was_warm == "True"
    for process in interpreters(warm):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    assert "canary" in warm.run("-c", CALL).out  # whichever way it starts
    assert warm.run("-c", END_SLOW.format(name="survivor", call=call)).out.strip() == "survivor"
    assert "'warm': True" in warm.run("-c", CALL_UNTIL_WARM).out


def test_exit_codes_are_told(warm: Platform) -> None:
    warm.run("-c", CALL_UNTIL_WARM)
    failed = warm.try_run("-c", "import modal; modal.Function.from_name('templates', 'ends').remote(7)")
    assert failed.code and "7" in failed.err, failed.text


def test_nothing_piles_up(warm: Platform) -> None:
    warm.run("-c", CALL_OFTEN)
    # One of each waits, and for a while as many of this one as the calls were a burst.
    until(lambda: len(groups(warm, "spare")) < len(groups(warm, "template")) + MOST_SPARES)


def test_templates_go_with_an_agent_that_is_killed(warm: Platform) -> None:
    warm.run("-c", CALL_UNTIL_WARM)
    before = {process: began(process) for process in interpreters(warm)}
    assert before
    warm.kill("node")
    left = list(before)

    def all_are_gone() -> bool:
        left[:] = [process for process, at in before.items() if began(process) == at != b""]
        return not left

    until(all_are_gone, what=lambda: [content(Path(f"/proc/{process}/status")) for process in left])
    assert "'warm': True" in warm.run("-c", CALL_UNTIL_WARM).out


def test_what_was_deployed_and_never_called_is_forked_at_its_first_call(warm: Platform, tmp_path: Path) -> None:
    program = tmp_path / "expected.py"  # with an image that nobody has used yet, though the platform may have been kept
    program.write_text((PROGRAMS / program.name).read_text().replace("echo expected", f"echo {time.time_ns()}"))
    before = {template["image_id"] for template in warm.status()["templates"]}
    warm.modal("deploy", str(program), deadline_s=FIRST_BUILD_S)
    until(lambda: {template["image_id"] for template in warm.status()["templates"]} > before, EXPECTED_S)
    called = "import modal; print(modal.Function.from_name('expected', 'is_warm').remote())"
    assert warm.run("-c", called).out.strip() == "True"
    warm.modal("app", "stop", "--yes", "expected")
