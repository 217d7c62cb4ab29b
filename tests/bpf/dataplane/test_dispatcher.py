"""libxdp's own loader was there before. Where the kernel has extensions of programs, that means its dispatcher; where
it has not, libxdp attaches the program alone, and the guard has a foreign program like any other before it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jetplane.dataplane import bpf, bpffs
from jetplane.dataplane.foreign import DISPATCHER
from jetplane.dataplane.node import DataPlane
from jetplane.errors import KernelError
from jetplane.lab.waiting import patience
from tests.bpf.dataplane.conftest import ConfigFactory, xdp_id

pytestmark = pytest.mark.usefixtures("namespace", "sources")

PROGRAM = "xdpfilt_alw_all"
"""One that comes with xdp-tools: xdp-filter's, which without an entry lets everything pass."""

Loader = Callable[..., str]


@pytest.fixture
def loader(pristine: ConfigFactory, tmp_path: Path) -> Iterator[Loader]:
    """xdp-loader(8), with a bpffs of its own."""
    pins = tmp_path / "libxdp"
    bpffs.mount(pins)

    def run(*arguments: str | Path) -> str:
        done = subprocess.run(
            ["xdp-loader", *arguments], capture_output=True, text=True, check=False, timeout=patience(60),
            env={**os.environ, "LIBXDP_BPFFS": str(pins)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    bpffs.unmount(pins)


def test_it_is_named_refused_and_when_told_replaced_and_given_back_whole(
    loader: Loader, configure: ConfigFactory
) -> None:
    [file] = Path("/usr/lib").glob(f"*/bpf/{PROGRAM}.o")
    loader("load", "--mode", "native", "up0", file)
    before, theirs = loader("status", "up0"), xdp_id("up0")
    with bpf.opened(bpf.prog_by_id(theirs)) as fd:
        name = bpf.prog_info(fd).name
    with pytest.raises(KernelError) as refused:
        DataPlane(configure()).ensure()
    if name == DISPATCHER:
        assert str(refused.value).startswith("up0: libxdp's dispatcher is attached")
        assert str(refused.value).endswith(f"{DISPATCHER} (id {theirs}) with {PROGRAM} in it")
    else:
        assert str(refused.value).endswith(f"not jetplane's is attached: {PROGRAM} (id {theirs})")
    assert loader("status", "up0") == before
    told = DataPlane(configure(uplink={"replace_foreign_xdp": True}))
    told.ensure()
    assert all(attachment.present for attachment in told.attachments())
    told.detach()
    assert loader("status", "up0") == before
    loader("unload", "up0", "--all")
    assert xdp_id("up0") == 0
