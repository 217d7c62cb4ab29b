"""What a wheel would hold, and what the set-up installs."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

from jetplane.lab.traffic import PROGRAMS
from tests.netns import nat_witnesses, resolvers

PROJECT = Path(__file__).resolve().parents[2]
SETUPTOOLS = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_every_package_is_named() -> None:
    directories = {path.parent.relative_to(PROJECT) for path in PROJECT.glob("jetplane/**/*.py")}
    packages = {".".join(directory.parts) for directory in directories}
    assert set(SETUPTOOLS["packages"]) == packages | {"jetplane.ebpf"}


def test_everything_that_a_node_compiles_is_shipped() -> None:
    shipped = SETUPTOOLS["package-data"]["jetplane.ebpf"]
    for file in (PROJECT / SETUPTOOLS["package-dir"]["jetplane.ebpf"]).iterdir():
        assert any(fnmatch(file.name, pattern) for pattern in shipped), file


def test_the_set_up_installs_what_the_lab_and_the_tests_ask_for() -> None:
    lines = (PROJECT / "deploy/setup").read_text(encoding="utf-8").splitlines()
    installed = {line.split("#")[0].strip() for line in lines}
    assert {*PROGRAMS.values(), *nat_witnesses.PROGRAMS.values(), *resolvers.PROGRAMS.values()} <= installed
