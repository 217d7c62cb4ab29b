"""Debian's kernels, fetched and unpacked into a cache, never installed.

Only the full flavour will do: the cloud flavour has no 9p to see the host's files with.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SERIES = ("6.1", "6.12")
"""Debian 12's own series and the newer one that its security archive carries."""


CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jetplane"
"""What one run of the tests keeps for the next."""


class KernelMissing(Exception):
    """The packages cannot be had; one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package with its modules indexed."""

    release: str  # as uname -r will say
    directory: Path

    @property
    def image(self) -> Path:
        """The file to boot; the modules lie beside it as in an installed system."""
        return self.directory / f"boot/vmlinuz-{self.release}"


def kernel(series: str) -> Kernel:
    """Return the newest kernel of a series that apt knows, fetching it unless the cache has it already."""
    package = _newest(series)
    directory = _unpacked(package, f"linux-image-{series}")
    release = package.removeprefix("linux-image-")
    if not (directory / f"lib/modules/{release}/modules.dep").exists():
        _run("depmod", "--basedir", directory, release)
    return Kernel(release, directory)


def static_busybox() -> Path:
    """Return a busybox without libraries, which the initial file system of a guest consists of.

    The package cannot be installed beside the ordinary busybox, so it too is only unpacked.
    """
    return _unpacked("busybox-static", "busybox-static") / "bin/busybox"


def _newest(series: str) -> str:
    names = _run("apt-cache", "pkgnames", f"linux-image-{series}.").split()
    # 6.1.0-56-amd64, 6.12.117+deb12-amd64, 6.12.48+deb13-amd64; neither -cloud-, -rt- nor -unsigned.
    form = re.compile(rf"linux-image-{re.escape(series)}\.\d+(-\d+)?(\+deb\d+)?-amd64")
    found = [name for name in names if form.fullmatch(name)]
    if not found:
        raise KernelMissing(f"apt knows no linux-image-{series}.…-amd64: it is in Debian 12's security archive")
    return max(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _unpacked(package: str, family: str) -> Path:
    """Unpack the candidate version of a package into the cache; older ones of the same family make room for it."""
    version = re.search(r"^Version: (\S+)$", _run("apt-cache", "show", "--no-all-versions", package), re.MULTILINE)
    if version is None:
        raise KernelMissing(f"apt knows no {package}")
    with _cache() as cache:
        directory = cache / f"{package}_{version[1].replace(':', '%')}"
        if not directory.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                archive = _download(package, Path(scratch))
                fresh = Path(scratch) / "unpacked"
                _run("dpkg", "-x", archive, fresh)
                fresh.rename(directory)
            for old in cache.glob(f"{family}*"):
                if old != directory and old.name.startswith((f"{family}_", f"{family}.")):
                    shutil.rmtree(old)
    return directory


def _download(package: str, directory: Path) -> Path:
    # The archive drops old versions: an index that is too old names a file that is gone.
    try:
        _fetch(package, directory)
    except KernelMissing:
        if os.geteuid() != 0:
            raise
        _run("apt-get", "-q", "update")
        _fetch(package, directory)
    return next(directory.glob("*.deb"))


def _fetch(package: str, directory: Path) -> None:
    _run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package, cwd=directory)


@contextmanager
def _cache() -> Iterator[Path]:
    """The cache, for one process at a time."""
    cache = CACHE / "kernels"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise KernelMissing(f"{command[0]} is missing: Debian's kernels are fetched with Debian's tools") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise KernelMissing(f"{' '.join(map(str, command))}: {said[-1]}")
    return done.stdout
