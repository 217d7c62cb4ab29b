"""Runs a bench in a virtual machine with one of Debian's kernels, over this machine's own files (see tests/vm)."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from jetplane.errors import RequirementError
from tests.vm.guest import Guest
from tests.vm.kernels import KernelMissing, kernel

LIMIT_S = 30 * 60


def run(series: str, output: Path, *, peers: int | None, rounds: int) -> int:
    """Run bench.peers there and bring its results to `output`. Returns its exit status."""
    try:
        image = kernel(series)
    except KernelMissing as error:
        raise RequirementError(f"bench: {error}") from None
    arguments = ["--rounds", str(rounds), *(["--peers", str(peers)] if peers else [])]
    with TemporaryDirectory(prefix="jetplane-guest") as directory:
        shared = Path(directory, "shared")
        shared.mkdir()
        command = ("--run", "python", "-m", "bench.peers", "--output", str(shared), *arguments)
        guest = Guest(image, shared, *command, limit=LIMIT_S)
        try:
            for _ in guest.lines(time.monotonic() + LIMIT_S):
                pass  # it reports nothing line by line
        except TimeoutError:
            pass  # what it has said so far is shown below
        finally:
            guest.end()
        said, status = shared / "output.txt", shared / "status"
        sys.stderr.write(said.read_text(encoding="utf-8", errors="replace") if said.exists() else "it did not boot\n")
        for file in shared.glob("peers-*"):
            output.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, output / file.name)
        return int(status.read_text()) if status.exists() else 1
