"""What a container says of the bytecode that it made."""

import base64
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from pilotlight.images import bytecode
from pilotlight.images.compiling import arguments, compiled_of
from pilotlight.wire import platform_pb2

SOURCES = ("root/program.py", "root/package/part.py")


def said(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


def encoded(data: bytes) -> str:
    return f"{len(data)} {base64.b64encode(data).decode()}"


def test_each_file_lies_where_the_interpreter_looks_for_it() -> None:
    assert compiled_of(said("cpython-311", f"0 {encoded(b'one')}", f"1 {encoded(b'two')}"), SOURCES) == {
        "root/__pycache__/program.cpython-311.pyc": b"one",
        "root/package/__pycache__/part.cpython-311.pyc": b"two",
    }


def test_whatever_else_it_says_is_not_heard() -> None:
    assert not compiled_of("", SOURCES)
    assert not compiled_of(said("../../etc", f"0 {encoded(b'one')}"), SOURCES)
    assert not compiled_of(said("cpython-311/..", f"0 {encoded(b'one')}"), SOURCES)


@pytest.mark.parametrize(
    "wrong", ["7 1 QQ==", "-1 1 QQ==", "x 1 QQ==", "0 1 not base64!", "0 1 QQ=", "0 1", "0", "0 QQ==", "0 2 QQ==", "0 x QQ=="]
)
def test_a_line_that_is_wrong_is_not_heard(wrong: str) -> None:
    found = compiled_of(said("cpython-311", wrong, f"1 {encoded(b'two')}"), SOURCES)
    assert found == {"root/package/__pycache__/part.cpython-311.pyc": b"two"}


def test_each_source_is_heard_on_once_and_no_line_beyond_their_number() -> None:
    twice = said("cpython-311", f"0 {encoded(b'one')}", f"0 {encoded(b'two')}")
    assert list(compiled_of(twice, SOURCES).values()) == [b"one"]
    assert not compiled_of(said("cpython-311", "0 x", "0 x", f"1 {encoded(b'two')}"), SOURCES)


def test_a_line_that_lacks_its_end_is_not_heard() -> None:
    whole = said("cpython-311", f"0 {encoded(b'a file of bytecode')}")
    for length in range(len(whole)):
        assert not compiled_of(whole[:length], SOURCES)
    assert compiled_of(whole, SOURCES)


def test_what_has_bytecode_of_its_own_is_left_alone() -> None:
    sources = ("a.py", "b.py", "c.py", "d.py", "data.txt", "part/b.py")
    shipped = ("__pycache__/b.cpython-312.pyc", "__pycache__/c.cpython-312.opt-1.pyc", "d.cpython-312.pyc", "d.pyc")
    mount = platform_pb2.Mount(files=[platform_pb2.MountEntry(path=f"/root/{path}") for path in (*sources, *shipped)])
    expected = tuple(f"root/{path}" for path in ("a.py", "d.py", "part/b.py"))
    assert bytecode._sources(platform_pb2.StartTask(mounts=[mount])) == expected


def test_of_very_many_files_the_first_are_compiled() -> None:
    mounts = [
        platform_pb2.Mount(files=[platform_pb2.MountEntry(path=f"/root/{kind}/{at}.py") for at in range(bytecode.MOST_SOURCES)])
        for kind in "ab"
    ]
    sources = bytecode._sources(platform_pb2.StartTask(mounts=mounts))
    assert sources == tuple(f"root/a/{at}.py" for at in range(bytecode.MOST_SOURCES))


def test_the_interpreter_takes_it_until_the_source_changes(tmp_path: Path) -> None:
    source, broken = tmp_path / "program.py", tmp_path / "broken.py"
    source.write_text("VALUE = 1\n")
    broken.write_text("def\n")
    command = [*arguments(sys.executable, is_checked=True), str(broken), str(source)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    [(path, data)] = compiled_of(printed, (str(broken), str(source))).items()
    assert path == importlib.util.cache_from_source(str(source))
    Path(path).parent.mkdir()
    Path(path).write_bytes(data)
    show = [sys.executable, "-v", "-c", "import program; print(program.VALUE)"]
    first = subprocess.run(show, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert first.stdout == "1\n" and f"code object from '{path}'" in first.stderr
    source.write_text("VALUE = 2\n")
    assert subprocess.run(show, check=True, capture_output=True, text=True, cwd=tmp_path).stdout == "2\n"
