"""Images as the stock client defines them: built once, their log streamed, their content found by the functions in them."""

import re
import secrets
import signal
from pathlib import Path

import pytest
from conftest import Platform

pytestmark = pytest.mark.e2e

MANY_KINDS = """
import os
import subprocess

import modal

app = modal.App("images-of-many-kinds")
base = modal.Image.debian_slim()
HERE = os.path.dirname(os.path.abspath(__file__))


@app.function(image=base.pip_install("six==1.16.0").env({"PLAIN": "a b", "QUOTED": "a'b\\"c"}).workdir("/opt/work")
    .add_local_file(HERE + "/wanted.txt", "/opt/wanted.txt", copy=True).add_local_dir(HERE + "/tree", "/opt/tree", copy=True)
    .add_local_python_source("a_local_module", copy=True)
    .run_commands("cat /opt/wanted.txt /opt/tree/below/leaf.txt > /opt/made", "echo $PLAIN >> /opt/made"))
def copied():
    import a_local_module
    import six

    with open("/opt/made") as made:
        return six.__version__, a_local_module.X, os.environ["PLAIN"], os.environ["QUOTED"], os.getcwd(), made.read()


@app.function(image=base.add_local_file(HERE + "/wanted.txt", "/opt/wanted.txt").add_local_dir(HERE + "/tree", "/opt/tree")
    .add_local_python_source("a_local_module"))
def mounted():
    import a_local_module

    with open("/opt/wanted.txt") as wanted, open("/opt/tree/below/leaf.txt") as leaf:
        return a_local_module.X, wanted.read(), leaf.read(), os.getcwd()


@app.function(image=base.pip_install_from_requirements(HERE + "/wanted.txt"))
def by_requirements():
    import six

    return six.__version__


@app.function(image=base.uv_pip_install("six==1.16.0"))
def by_uv():
    import six

    return six.__version__


@app.function(image=base.apt_install("hello"))
def by_apt():
    return subprocess.run(["hello"], capture_output=True, text=True, check=True).stdout


@app.function(image=base.dockerfile_commands("RUN echo made > /made", "ENV FROM_DOCKERFILE=1", "WORKDIR /srv"))
def by_dockerfile():
    with open("/made") as made:
        return os.getcwd(), os.environ["FROM_DOCKERFILE"], made.read()


@app.local_entrypoint()
def main():
    for function in (copied, mounted, by_requirements, by_uv, by_apt, by_dockerfile):
        print(f"RESULT {str(function.remote()).strip()}")
"""


def with_image(directory: Path, definition: str) -> str:
    """A program with one function `version` in the image of that definition."""
    path = directory / "program.py"
    path.write_text(
        "import sys\n\nimport modal\n\napp = modal.App('image-of-one-kind')\n\n\n"
        f"@app.function(image={definition})\ndef version():\n    print(f'PYTHON {{sys.version}}')\n"
    )
    return str(path)


def refused(platform: Platform, program: str) -> str:
    finished = platform.try_run("-m", "modal", "run", program)
    assert finished.code == 1 and "Traceback" not in finished.text, finished.text
    return finished.text


def test_every_kind_of_layer_and_mount(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "wanted.txt").write_text("six\n")
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "leaf.txt").write_text("leaf\n")
    (tmp_path / "a_local_module.py").write_text("X = 42\n")
    program = tmp_path / "kinds.py"
    program.write_text(MANY_KINDS)
    first = platform.modal("run", str(program), deadline_s=300)
    results = re.findall(r"^RESULT (.*)$", first.out, re.MULTILINE)
    assert results[0] == repr(("1.16.0", 42, "a b", "a'b\"c", "/opt/work", "six\nleaf\na b\n"))
    assert results[1] == repr((42, "six\n", "leaf\n", "/root"))
    assert results[2].startswith("1.") and results[3] == "1.16.0"
    assert results[4:] == ["Hello, world!", repr(("/srv", "1", "made\n"))]
    again = platform.modal("run", str(program))
    assert "Building image" not in again.text and again.out.count("RESULT") == 6


def test_a_failed_step_says_what_failed_and_leaves_nothing(platform: Platform, tmp_path: Path) -> None:
    layers = set(platform.settings.layers_dir.iterdir())
    nonce = secrets.token_hex(4)
    definition = f'modal.Image.debian_slim().run_commands("echo {nonce} > /here; echo sorry >&2; exit 3")'
    for _ in range(2):  # and it is tried again
        said = refused(platform, with_image(tmp_path, definition))
        assert "=> Step 1: RUN echo" in said
        assert re.search(
            r"Image build for im-\w+ failed with the exception:\nThe build step 'RUN echo .*' ended with exit code 3", said
        )
        assert "Its last output:\nsorry" in said
    assert set(platform.settings.layers_dir.iterdir()) == layers


def test_two_clients_share_one_build_and_both_see_its_log(platform: Platform, tmp_path: Path) -> None:
    go = secrets.token_hex(4)  # not built yet, on a kept state either
    step = f"echo {go} begins; sleep 10; echo {go} ends"
    program = with_image(tmp_path, f'modal.Image.debian_slim().run_commands("{step}")')
    first = platform.start("-m", "modal", "run", program)
    first.until(f"\n{go} begins")
    second = platform.start("-m", "modal", "run", program)
    logs = [run.end().text for run in (first, second)]
    images = [re.findall(r"Built image (im-\w+) in", log) for log in logs]
    assert len(images[0]) == 1 and images[0] == images[1], logs
    for log in logs:
        assert f"\n{go} ends" in log and "PYTHON 3." in log, log


def test_an_interrupted_client_can_come_back_to_the_build(platform: Platform, tmp_path: Path) -> None:
    go = secrets.token_hex(4)  # not built yet, on a kept state either
    program = with_image(tmp_path, f'modal.Image.debian_slim().run_commands("echo {go} begins; sleep 10")')
    left = platform.start("-m", "modal", "run", program)
    left.until(f"\n{go} begins")
    assert any(go in build["step"] for build in platform.status()["builds"])
    left.signal(signal.SIGINT)
    assert "Traceback" not in left.end().text
    assert "PYTHON 3." in platform.modal("run", program).text


def test_a_forced_build_is_built_each_time(platform: Platform, tmp_path: Path) -> None:
    program = with_image(tmp_path, "modal.Image.debian_slim().run_commands('date +at-%s-%N', force_build=True)")
    moments = [re.search(r"^at-\d+-\d+$", platform.modal("run", program).text, re.MULTILINE) for _ in range(2)]
    assert moments[0] and moments[1] and moments[0][0] != moments[1][0]


def test_official_bases_by_name(platform: Platform, tmp_path: Path) -> None:
    by_name = with_image(tmp_path, "modal.Image.from_registry('python:3.11-slim-bookworm')")
    assert "PYTHON 3.11." in platform.modal("run", by_name).text


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("modal.Image.debian_slim().run_commands('true', gpu='T4')", "needs 1×T4, this platform has 2×A10G"),
        ("modal.Image.debian_slim().run_function(print)", "Image.run_function"),
        ("modal.Image.from_registry('registry.invalid/nothing:1')", "registry.invalid/nothing:1 is not in the local store"),
        ("modal.Image.from_registry('debian:bookworm-slim', add_python='3.11')", "no standalone Pythons"),
        ("modal.Image.debian_slim().dockerfile_commands('FETCH x')", "FETCH is not an instruction"),
        ("modal.Image.debian_slim().dockerfile_commands('COPY nothing.txt /')", "nothing.txt"),
    ],
)
def test_what_cannot_be_built_is_explained(platform: Platform, tmp_path: Path, definition: str, said: str) -> None:
    assert said in refused(platform, with_image(tmp_path, definition))
