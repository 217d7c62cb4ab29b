"""Compiling, loading and pinning by the child process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jetplane import abi
from jetplane.dataplane import bpf, bpffs, load, pins
from jetplane.dataplane.load import Loaded
from jetplane.dataplane.maps import Map
from jetplane.dataplane.programs import PROGRAMS
from jetplane.dataplane.specialise import Facts, node_header
from jetplane.errors import CompileError, KernelError, RequirementError
from tests.bpf.dataplane.conftest import GUARD, NAT, ConfigFactory, copy_headers


class Bench:
    """A bpffs, a build directory, and one way to load into them."""

    def __init__(self, directory: Path, configure: ConfigFactory, sources: Path) -> None:
        self.root, self.build, self.sources = directory / "bpf", directory / "build", sources
        self.maps, self.programs = self.root / "maps-1", self.root / "programs-1"
        self.configure = configure

    def load(self, **nat: int) -> Loaded:
        config = self.configure(nat={"max_bindings": 1024, "max_remotes": 1024, **nat})
        header = node_header(config, Facts(str(self.maps), uplink_ifindex=1))
        return load.load(header=header, maps=self.maps, programs=self.programs, build=self.build, sources=self.sources)

    def log(self, source: str) -> str:
        return (self.build / f"{source}.log").read_text()


@pytest.fixture
def bench(tmp_path: Path, configure: ConfigFactory) -> Iterator[Bench]:
    """With small programs, in files named as the real ones are."""
    sources = copy_headers(tmp_path / "ebpf")
    (sources / "guard.bpf.c").write_text('#include "maps.h"\n' + GUARD)
    (sources / "nat.bpf.c").write_text('#include "maps.h"\n' + NAT)
    made = Bench(tmp_path, configure, sources)
    bpffs.mount(made.root)
    yield made
    bpffs.unmount(made.root)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What these tests have compiled so far."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    """The compiler runs where a test is about it: where the programs are others, or its cache is its own."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(kept))


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_every_program_and_map_is_pinned_with_its_type(bench: Bench) -> None:
    loaded = bench.load()
    assert names(bench.maps) == set(abi.maps()) == set(loaded.maps)
    assert names(bench.programs) == {program.name for program in PROGRAMS}
    for program in PROGRAMS:
        with bpf.opened(bpf.obj_get(bench.programs / program.name)) as fd:
            info = bpf.prog_info(fd)
        assert (info.name, info.type) == (program.name[:15], program.type)
    assert pins.are_whole(bench.maps, bench.programs, abi.maps())


def test_the_reported_layout_is_the_kernels(bench: Bench) -> None:
    for name, layout in bench.load().maps.items():
        with Map(bench.maps, name, layout) as opened:
            assert opened.info.max_entries == layout.max_entries
            assert opened.info.id == layout.id


def test_the_second_load_uses_the_maps_of_the_first(bench: Bench) -> None:
    first = bench.load()
    pins.remove(bench.programs)
    second = bench.load()
    assert first.maps == second.maps


def compiler_libraries() -> set[str]:
    """Libraries of the compiler that this process has mapped."""
    mapped = (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines())
    return {path for path in mapped if "libbcc" in path or "LLVM" in path}


def test_the_compiler_stays_out_of_this_process(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY")
    before = compiler_libraries()
    loaded = bench.load()
    assert compiler_libraries() == before, "another test may have mapped them earlier; this load adds none"
    assert loaded.peak_bytes > 50 * 2**20, "so there is something to keep out"


def test_the_programs_that_are_delivered_load(bench: Bench) -> None:
    bench.sources = abi.EBPF
    assert set(bench.load().maps) == set(abi.maps())


OTHERS = GUARD[GUARD.index("int sweep_relays") :]

BROKEN = (
    (
        "a C error",
        "guard",
        "int guard(struct xdp_md *context) { return nothing; }",
        r"guard\.bpf\.c:2:\d+: error: .*nothing",
    ),
    ("a missing header", "guard", '#include "nowhere.h"', r"guard\.bpf\.c:2:\d+: fatal error: 'nowhere.h'"),
    (
        "a missing function",
        "guard",
        "int other(struct xdp_md *context) { return 0; }",
        r"guard\.bpf\.c: there is no function guard",
    ),
    (
        "what the verifier cannot follow to its end",
        "guard",
        "int guard(void *c) { u32 x = 0; for (u32 i = 0; i < 500000; i++) x += bpf_get_prandom_u32(); return x; }"
        + OTHERS,
        r"guard\.bpf\.c: guard: has more paths",
    ),
    (
        "what the verifier refuses",
        "guard",
        "int guard(struct xdp_md *context) { return *(int *)(long)context->data; }" + OTHERS,
        r"guard\.bpf\.c: guard: the kernel's verifier refused it: .*R\d",
    ),
)


@pytest.mark.parametrize(("source", "text", "message"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_refused(bench: Bench, source: str, text: str, message: str) -> None:
    (bench.sources / f"{source}.bpf.c").write_text(f'#include "maps.h"\n{text}\n')
    with pytest.raises(CompileError, match=message) as raised:
        bench.load()
    assert "\n" not in str(raised.value)
    assert names(bench.root) == {"maps-1", "maps.debug", "progs.debug"}, "no directory of programs, whole or half"


def test_what_the_compiler_says_is_kept_in_full(bench: Bench) -> None:
    (bench.sources / "guard.bpf.c").write_text("int guard(void) { return a + b; }\n")
    with pytest.raises(CompileError, match=r"guard\.bpf\.log"):
        bench.load()
    assert "'a'" in bench.log("guard.bpf")
    assert "'b'" in bench.log("guard.bpf")


def test_a_half_made_directory_is_made_anew(bench: Bench) -> None:
    bench.load()
    bench.programs.rename(bench.root / "new-programs-1")
    bench.load()
    assert names(bench.programs) == {program.name for program in PROGRAMS}
    assert not (bench.root / "new-programs-1").exists()


def test_a_directory_that_lost_a_program_is_not_whole(bench: Bench) -> None:
    bench.load()
    (bench.programs / "guard").unlink()
    assert not pins.are_whole(bench.maps, bench.programs, abi.maps())


def test_programs_of_other_maps_are_not_whole(bench: Bench) -> None:
    bench.load()
    bench.programs.rename(bench.root / "programs-0")
    pins.remove(bench.maps)
    bench.load()
    assert not pins.are_whole(bench.maps, bench.root / "programs-0", abi.maps())
    assert pins.are_whole(bench.maps, bench.programs, abi.maps())


def test_a_pinned_map_of_another_size_is_refused(bench: Bench) -> None:
    bench.load()
    pins.remove(bench.programs)
    with pytest.raises(CompileError, match="map endpoints: declared as"):
        bench.load(max_bindings=2048)


def test_a_map_that_no_program_declares_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with (bench.sources / "maps.def").open("a") as file:
        file.write('#if 0\nMAP(forgotten, "hash", u32, u32, 1, 0, "nothing")\n#endif\n')
    monkeypatch.setattr(abi, "EBPF", bench.sources)
    abi.maps.cache_clear()
    try:
        with pytest.raises(CompileError, match="map forgotten is declared, but"):
            bench.load()
    finally:
        abi.maps.cache_clear()


def test_pins_outside_of_a_bpffs_are_refused(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.maps = tmp_path / "maps-1"
    monkeypatch.delenv("CACHE_DIRECTORY")
    with pytest.raises(KernelError, match="is not on BPF FS"):
        bench.load()
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    bench.maps = bench.root / "maps-1"
    bench.load()
    bench.maps, bench.programs = tmp_path / "maps-2", bench.root / "programs-2"
    with pytest.raises(KernelError, match=r"maps-2/.*not permitted") as raised:
        bench.load()
    assert "bpffs" in raised.value.hint


def test_an_unprivileged_user_is_told_what_is_missing(bench: Bench) -> None:
    """The whole of `load` as nobody, in directories that are nobody's, so that only BPF is refused."""
    for path in (*bench.sources.parents, *bench.root.parents):
        if path.is_relative_to(Path(bench.sources.parts[0], *bench.sources.parts[1:3])):
            path.chmod(0o755)
    for path in (bench.root, bench.build):
        path.mkdir(exist_ok=True)
        subprocess.run(["chown", "nobody", path], check=True)
    config = bench.configure()
    (bench.build / "header").write_text(node_header(config, Facts(str(bench.maps), uplink_ifindex=1)))
    script = f"""
from pathlib import Path
from jetplane.dataplane.load import load
from jetplane.errors import JetplaneError
build = Path({str(bench.build)!r})
try:
    load(header=(build / "header").read_text(), maps=Path({str(bench.maps)!r}), programs=Path({str(bench.programs)!r}),
         build=build, sources=Path({str(bench.sources)!r}))
except JetplaneError as error:
    print(type(error).__name__, error, error.hint, sep="|")
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], user="nobody", group="nogroup", capture_output=True, text=True, timeout=60
    )
    kind, message, hint = ran.stdout.strip().split("|")
    assert kind == "KernelError", (ran.stdout, ran.stderr)
    assert "Operation not permitted" in message
    assert "CAP_BPF" in hint
    assert names(bench.root) <= {"maps-1", "maps.debug", "progs.debug"}


def test_a_bcc_whose_library_is_missing_is_a_requirement(bench: Bench, tmp_path: Path) -> None:
    """The real import, of a bcc that is there but cannot be loaded."""
    fake = tmp_path / "packages" / "bcc"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("raise ImportError('libbcc.so.0: cannot open shared object file')")
    child = (
        f"import sys; sys.path.insert(0, {str(fake.parent)!r}); "
        "from jetplane.dataplane import compile_child; compile_child._compiler()"
    )
    ran = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, timeout=30)
    assert "RequirementError: the BPF compiler cannot be loaded: libbcc.so.0" in ran.stderr


def test_a_loader_that_dies_is_an_error_and_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CompileError, match="ended with status 1"):
        bench.load()
    assert not bench.programs.exists()


def test_a_bpffs_without_the_right_to_mount_is_a_requirement(tmp_path: Path, root: None) -> None:
    tmp_path.chmod(0o777)
    script = (
        f"from pathlib import Path; from jetplane.dataplane import bpffs; bpffs.mount(Path({str(tmp_path / 'b')!r}))"
    )
    ran = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "RequirementError: mounting a bpffs" in ran.stderr
    assert "not permitted" in ran.stderr


def test_a_bpffs_is_for_root_only(bench: Bench) -> None:
    assert bpffs.is_private(bench.root)
    assert not bpffs.mount(bench.root), "it is there"
    bench.root.chmod(0o755)
    assert not bpffs.is_private(bench.root)
    bpffs.mount(bench.root)
    assert bpffs.is_private(bench.root)


def test_unmounting_what_is_not_mounted_is_fine(tmp_path: Path) -> None:
    bpffs.unmount(tmp_path)
    bpffs.unmount(tmp_path / "nowhere")


def test_a_requirement_is_named_before_anything_is_made(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RequirementError("the BPF compiler is missing")

    monkeypatch.setattr(load.toolchain, "bcc_version", missing)
    with pytest.raises(RequirementError):
        bench.load()
    assert not bench.build.exists()


def _tags(bench: Bench) -> dict[str, str]:
    """The kernel's hash of each program's instructions."""
    tags = {}
    for path in bench.programs.iterdir():
        with bpf.opened(bpf.obj_get(path)) as fd:
            tags[path.name] = bpf.prog_info(fd).tag
    return tags


def _described(loaded: Loaded) -> list[tuple[str, Any, int]]:
    return [(name, layout.value, layout.max_entries) for name, layout in loaded.maps.items()]


def test_what_was_compiled_is_kept_and_loads_at_other_pins(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    compiled, tags = bench.load(), _tags(bench)
    bench.maps, bench.programs = bench.root / "maps-2", bench.root / "programs-2"
    again = bench.load()
    assert (again.peak_bytes, _described(again)) == (0, _described(compiled))
    assert _tags(bench) == tags
    with bpf.opened(bpf.obj_get(bench.programs / "nat_out")) as program:
        assert bpf.prog_info(program).map_ids == {again.maps[name].id for name in ("counters", "bindings", "peers")}
    flags = {}
    for directory in (bench.root / "maps-1", bench.maps):
        with bpf.opened(bpf.obj_get(directory / "fragments")) as fd:
            flags[directory] = bpf.map_info(fd).flags
    assert set(flags.values()) == {1}, "BPF_F_NO_PREALLOC"


@pytest.mark.parametrize("spoil", ["shared", "cut", "another source"])
def test_what_cannot_be_trusted_is_compiled_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    bench.load()
    kept = list((tmp_path / "cache/objects").iterdir())
    assert len(kept) == 2, "one of each source"
    match spoil:
        case "shared":
            kept[0].chmod(0o666)
        case "cut":
            kept[0].write_bytes(kept[0].read_bytes()[:-100])
        case _:
            with (bench.sources / "guard.bpf.c").open("a") as file:
                file.write("/* changed */\n")
    pins.remove(bench.programs)
    assert bench.load().peak_bytes


def test_a_cache_that_cannot_be_written_is_done_without(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", "/sys")
    assert bench.load().peak_bytes


def test_only_the_source_that_has_changed_is_compiled_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    bench.load()
    before = _tags(bench)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache/objects").iterdir()}
    guard = bench.sources / "guard.bpf.c"
    guard.write_text(guard.read_text().replace("*total += 1", "*total += 2"))
    pins.remove(bench.programs)
    assert bench.load().peak_bytes
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache/objects").iterdir()}
    assert kept.items() < after.items() and len(after) == len(kept) + 1
    changed = {name for name, tag in _tags(bench).items() if tag != before[name]}
    assert changed == {"guard"}
