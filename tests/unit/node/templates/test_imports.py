"""Names of modules from the files that were opened."""

import pytest

from pilotlight.node.templates.imports import names_of

PACKAGES = "/usr/local/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"{PACKAGES}/numpy/__pycache__/__init__.cpython-311.pyc", "numpy"),
        (f"{PACKAGES}/numpy/core/__pycache__/multiarray.cpython-311.pyc", "numpy.core.multiarray"),
        (f"{PACKAGES}/numpy/core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so", "numpy.core._multiarray_umath"),
        (f"{PACKAGES}/_cffi_backend.abi3.so", "_cffi_backend"),
        (f"{PACKAGES}/__pycache__/six.cpython-39.opt-1.pyc", "six"),
        ("/usr/lib/python3/dist-packages/yaml/loader.py", "yaml.loader"),
        ("/pkg/modal/_runtime/__pycache__/asgi.cpython-311.pyc", "modal._runtime.asgi"),
        ("/__modal/deps/aiohttp/_http_parser.cpython-311-x86_64-linux-gnu.so", "aiohttp._http_parser"),
    ],
)
def test_modules_of_packages(path: str, name: str) -> None:
    assert names_of([path, path]) == [name]


@pytest.mark.parametrize(
    "path",
    [
        "/root/program.py",
        "/root/pkg/__pycache__/app.cpython-311.pyc",
        "/usr/local/lib/python3.11/json/__init__.py",
        f"{PACKAGES}/numpy.libs/libopenblas64.so.0",
        f"{PACKAGES}/numpy-2.2.6.dist-info/METADATA",
        f"{PACKAGES}/not-a-name/module.py",
        f"{PACKAGES}/tool/__main__.py",
        f"{PACKAGES}/2to3/fixer.py",
    ],
)
def test_other_files(path: str) -> None:
    assert names_of([path]) == []


def test_they_keep_their_order() -> None:
    assert names_of([f"{PACKAGES}/{name}.py" for name in ("b", "a", "b", "c")]) == ["b", "a", "c"]
