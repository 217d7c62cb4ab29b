"""Which bcc is accepted, and the headers made for it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from jetplane.dataplane import toolchain
from jetplane.errors import RequirementError


def package(directory: Path, **files: str) -> list[str]:
    (directory / "bcc").mkdir()
    for name, text in files.items():
        (directory / "bcc" / f"{name}.py").write_text(text)
    return [str(directory)]


@pytest.mark.parametrize("version", ["0.26.0", "0.29.1", "0.35.0+a1b2c3", "v0.31.0", "1.0.0"])
def test_a_bcc_new_enough_is_accepted(tmp_path: Path, version: str) -> None:
    path = package(tmp_path, __init__="", libbcc="", version=f"__version__ = '{version}'\n")
    assert toolchain.bcc_version(path) == version


def test_the_installed_bcc_is_accepted_without_being_imported() -> None:
    """In an interpreter of its own: a test that ran before this one may have imported bcc."""
    ask = "import sys; from jetplane.dataplane import toolchain; print(toolchain.bcc_version(), 'bcc' in sys.modules)"
    version, imported = subprocess.check_output([sys.executable, "-c", ask], text=True).split()
    assert version
    assert imported == "False"


def test_a_bcc_too_old_is_refused(tmp_path: Path) -> None:
    path = package(tmp_path, __init__="", libbcc="", version="__version__ = '0.18.0'\n")
    with pytest.raises(RequirementError, match=r"0\.18\.0 is too old"):
        toolchain.bcc_version(path)


def test_a_bcc_without_a_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequirementError, match="does not say its version"):
        toolchain.bcc_version(package(tmp_path, __init__="", libbcc="", version=""))


def test_the_lattice_library_of_that_name_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(RequirementError, match="unrelated") as raised:
        toolchain.bcc_version(package(tmp_path, __init__="class Lattice: ...", version="__version__ = '1.0.0'"))
    assert "pip uninstall bcc" in raised.value.hint
    assert "python3-bpfcc" in raised.value.hint


def test_a_missing_bcc_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "DISTRIBUTION_PACKAGES", tmp_path)
    with pytest.raises(RequirementError, match="missing") as raised:
        toolchain.bcc_version([str(tmp_path)])
    assert "python3-bpfcc" in raised.value.hint


def test_an_environment_that_does_not_see_it_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "DISTRIBUTION_PACKAGES", tmp_path)
    (tmp_path / "bcc").mkdir()
    monkeypatch.setattr(sys, "prefix", "/venv")
    with pytest.raises(RequirementError, match="does not see it") as raised:
        toolchain.bcc_version([])
    assert "--system-site-packages" in raised.value.hint


def test_another_python_than_the_distributions_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "DISTRIBUTION_PACKAGES", tmp_path)
    (tmp_path / "bcc").mkdir()
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    with pytest.raises(RequirementError, match="belongs to /usr/bin/python3"):
        toolchain.bcc_version([])


def machine_headers(root: Path, asm: str) -> Path:
    for file in ("linux/if_ether.h", "linux/bpf.h", "linux/tc_act/tc_bpf.h", f"{asm}/types.h", "asm-generic/types.h"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(f"/* {file} */")
    return root


def test_the_tree_has_what_bcc_asks_for(tmp_path: Path) -> None:
    include = machine_headers(tmp_path / "include", "asm")
    tree = toolchain.make_headers(tmp_path / "tree", include=include) / "include"
    assert "CONFIG_BPF_SYSCALL" in (tree / "linux/kconfig.h").read_text()
    assert (tree / "uapi/linux/bpf.h").read_text() == "", "bcc brings its own"
    for file in ("linux/if_ether.h", "linux/tc_act/tc_bpf.h", "asm/types.h", "asm-generic/types.h"):
        assert (tree / "uapi" / file).is_file()


def test_headers_by_architecture_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", {"MULTIARCH": "aarch64-linux-gnu"}.get)
    include = machine_headers(tmp_path / "include", "aarch64-linux-gnu/asm")
    tree = toolchain.make_headers(tmp_path / "tree", include=include)
    assert (tree / "include/uapi/asm").readlink() == include / "aarch64-linux-gnu/asm"


def test_the_tree_is_made_anew(tmp_path: Path) -> None:
    include = machine_headers(tmp_path / "include", "asm")
    tree = toolchain.make_headers(tmp_path / "tree", include=include)
    (tree / "include/uapi/linux/stale.h").touch()
    assert not (toolchain.make_headers(tree, include=include) / "include/uapi/linux/stale.h").exists()


@pytest.mark.parametrize("missing", ["linux/if_ether.h", "asm/types.h"])
def test_missing_headers_name_the_package(tmp_path: Path, missing: str) -> None:
    include = machine_headers(tmp_path / "include", "asm")
    (include / missing).unlink()
    with pytest.raises(RequirementError, match="headers are missing") as raised:
        toolchain.make_headers(tmp_path / "tree", include=include)
    assert "linux-libc-dev" in raised.value.hint
