"""Imports point down. The layers are written here, top first; a module sees its own package and what is below."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jetplane

ROOT = Path(jetplane.__file__).parent

LAYERS = (
    {"__main__"},
    {"cli"},
    {"lab"},
    {"lifecycle"},
    {"controller"},
    {"report", "publisher", "admin", "following", "drain"},
    {"preflight", "audit", "capacity"},
    {"node", "sessions", "release"},
    {"wireguard", "dataplane", "network", "sources", "metrics"},
    {"plan", "held", "journal", "health", "schedule", "secret", "status", "lock", "supervisor", "roster", "alarm"},
    {"config", "backoff", "indices", "collecting", "client"},
    {"model", "shards", "endpoint"},
    {"privacy", "abi", "readable"},
    {"errors"},
)

THE_EXPORTER_CANNOT_REACH = {"model", "plan", "config", "sources", "wireguard", "dataplane", "network", "journal"}

HOMES = {
    "bcc": {"dataplane.compile_child", "dataplane.toolchain"},
    "pyroute2": {"network", "dataplane.links", "wireguard.kernel", "wireguard.links", "lab"},
    "netaddr": {"config", "model", "shards", "dataplane.lists.prefixes"},
    "msgspec": {"admin", "config", "status", "report", "sources"},
    "click": {"cli"},
    "h11": {"admin.server"},
    "rich": {"cli.show", "cli.progress", "lab"},
    "tomlkit": {"sources.files"},
    "nacl": {"wireguard.public"},
    "segno": {"cli.client"},
    "inotify_simple": {"sources.watch", "metrics.exporter"},
    "nats": {"sources.session"},
    "prometheus_client": {"metrics.render"},
    "opendp": {"release.sampler"},
}


def _modules() -> dict[str, Path]:
    paths = (path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
    return {_name(path): path for path in paths}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    """Dotted names that a module imports, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(module), level=0, names=aliases):
                names |= {f"{module}.{alias.name}" for alias in aliases}
            case ast.ImportFrom(level=level) if level:
                raise AssertionError(f"{path}: relative import")
    return names


def _own(names: set[str]) -> set[str]:
    """First part below `jetplane` of what is imported from it."""
    return {name.split(".")[1] for name in names if name.startswith("jetplane.")} - {"__version__"}


def _level(package: str) -> int:
    found = [level for level, layer in enumerate(LAYERS) if package in layer]
    assert found, f"{package} has no layer; give it one"
    return found[0]


MODULES = _modules()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_is_below_it(module: str) -> None:
    package = module.split(".")[0]
    for other in _own(_imports(MODULES[module])) - {package}:
        assert _level(other) > _level(package), f"{module} imports {other}, which is not below it"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("metrics")])
def test_what_the_exporter_is_made_of_cannot_name_a_peer(module: str) -> None:
    assert not _own(_imports(MODULES[module])) & THE_EXPORTER_CANNOT_REACH


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_only_at_home(library: str) -> None:
    users = {m for m, path in MODULES.items() if library in {name.split(".")[0] for name in _imports(path)}}
    strangers = {m for m in users if not any(m == home or m.startswith(f"{home}.") for home in HOMES[library])}
    assert users, f"nothing imports {library}: take it out of the requirements"
    assert not strangers, f"{library} is also imported by {sorted(strangers)}"


def test_the_controller_never_holds_the_compiler() -> None:
    """bcc is reached through a child process only: no module that the controller imports names it."""
    for module in HOMES["bcc"]:
        assert module in MODULES
    importers = {m for m, path in MODULES.items() if "jetplane.dataplane.compile_child" in _imports(path)}
    assert not importers
