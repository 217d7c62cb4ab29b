"""The pure headers of ebpf/, compiled for this machine under sanitizers: one result for each TEST in the C files."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EBPF = HERE.parents[1] / "ebpf"

COMPILERS = ("gcc", *(("clang",) if shutil.which("clang") else ()))
FLAGS = (
    *("-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "-fno-sanitize=alignment",  # headers lie where they lie in a packet, and BPF loads them from there
    f"-I{EBPF}",
    f"-I{HERE}",
)
_TEST = re.compile(r"^TEST\((\w+)\)", re.MULTILINE)


def _tests() -> list[tuple[str, str]]:
    """(File, test) of every TEST."""
    return [(path.name, name) for path in sorted(HERE.glob("test_*.c")) for name in _TEST.findall(path.read_text())]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """program("gcc", "test_ports.c"): the file, compiled once."""
    directory = tmp_path_factory.mktemp("host")

    @cache
    def compiled(compiler: str, file: str) -> Path:
        target = directory / f"{compiler}-{file}.out"
        command = [compiler, *FLAGS, str(HERE / file), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return target

    return compiled


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(("file", "name"), _tests())
def test_c(program: Callable[[str, str], Path], compiler: str, file: str, name: str) -> None:
    done = subprocess.run([program(compiler, file), name], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_no_two_tests_of_a_file_have_one_name() -> None:
    assert len(set(_tests())) == len(_tests()) > 0
