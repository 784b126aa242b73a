"""What a container says of the bytecode that it made."""

import base64
import importlib.util
import subprocess
import sys
from pathlib import Path

from pilotlight.images import bytecode
from pilotlight.images.bytecode import compiled_of
from pilotlight.wire import platform_pb2

SOURCES = ("root/program.py", "root/package/part.py")


def said(*lines: str) -> str:
    return "\n".join(lines)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_each_file_lies_where_the_interpreter_looks_for_it() -> None:
    assert compiled_of(said("cpython-311", f"0 {encoded(b'one')}", f"1 {encoded(b'two')}"), SOURCES) == {
        "root/__pycache__/program.cpython-311.pyc": b"one",
        "root/package/__pycache__/part.cpython-311.pyc": b"two",
    }


def test_whatever_else_it_says_is_not_heard() -> None:
    assert not compiled_of("", SOURCES)
    assert not compiled_of(said("../../etc", f"0 {encoded(b'one')}"), SOURCES)
    assert not compiled_of(said("cpython-311/..", f"0 {encoded(b'one')}"), SOURCES)
    wrong = ("7 QQ==", "-1 QQ==", "x QQ==", "0 not base64!", "0")
    found = compiled_of(said("cpython-311", *wrong, f"1 {encoded(b'two')}"), SOURCES)
    assert found == {"root/package/__pycache__/part.cpython-311.pyc": b"two"}


def test_what_has_bytecode_of_its_own_is_left_alone() -> None:
    paths = ("/root/a.py", "/root/b.py", "/root/__pycache__/b.cpython-312.pyc", "/root/data.txt")
    mount = platform_pb2.Mount(files=[platform_pb2.MountEntry(path=path) for path in paths])
    assert bytecode._sources(platform_pb2.StartTask(mounts=[mount])) == ("root/a.py",)


def test_the_interpreter_takes_it_until_the_source_changes(tmp_path: Path) -> None:
    source, broken = tmp_path / "program.py", tmp_path / "broken.py"
    source.write_text("VALUE = 1\n")
    broken.write_text("def\n")
    arguments = [sys.executable, "-I", "-S", "-B", "-c", bytecode._SCRIPT, str(broken), str(source)]
    printed = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    [(path, data)] = compiled_of(printed, (str(broken), str(source))).items()
    assert path == importlib.util.cache_from_source(str(source))
    Path(path).parent.mkdir()
    Path(path).write_bytes(data)
    show = [sys.executable, "-v", "-c", "import program; print(program.VALUE)"]
    first = subprocess.run(show, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert first.stdout == "1\n" and f"code object from '{path}'" in first.stderr
    source.write_text("VALUE = 2\n")
    assert subprocess.run(show, check=True, capture_output=True, text=True, cwd=tmp_path).stdout == "2\n"
