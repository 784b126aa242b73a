"""GPUs by declaration, with the stock client and real containers; the checks are in `programs/gpus.py`.

Devices, files and hooks of real ones are in test_runtime.py, by a specification of harmless devices.
"""

import signal
from collections.abc import Callable

import pytest
from conftest import REPOSITORY, Platform

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("client", ["newest", "oldest"])
def test_gpus_of_functions_and_builds(checks: Callable[..., None], client: str) -> None:
    checks("gpus", client=client)


@pytest.mark.slow
def test_who_has_a_gpu_is_shown_and_known_after_deaths(platform: Platform) -> None:
    run = platform.start("-m", "modal", "run", "gpus.py::hold")
    run.until("holding GPU-")
    shown = platform.status()["gpus"]
    assert sorted(gpu["state"] for gpu in shown) == ["free", "used"], shown
    [held], [free] = ([gpu["uuid"] for gpu in shown if gpu["state"] == state] for state in ("used", "free"))
    assert f"holding {held}" in run.text and any("gpus.hold (ta-" in gpu["used_by"] for gpu in shown), shown
    assert "GPUs\n" in platform.control("status")
    platform.kill("server")
    assert f"given {free}\n" in platform.modal("run", "gpus.py::which").out
    platform.kill("node")  # its containers die with it, and their inputs are tried again
    run.until("holding GPU-", times=2)
    run.signal(signal.SIGINT)
    run.end()
    platform.modal("run", "gpus.py::both")  # which needs all there are


def test_the_smoke_test_says_that_declared_gpus_are_not_real(platform: Platform) -> None:
    done = platform.try_run("-m", "modal", "run", str(REPOSITORY / "examples" / "gpu_smoke.py"))
    assert done.code and "nvidia-smi gives no answer in the container: there is no nvidia-smi" in done.text, done.text
