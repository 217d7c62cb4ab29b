"""Boots a kernel over this machine's own files and runs pytest in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.vm.kernels import CACHE, Kernel, static_busybox

PROJECT = Path(__file__).resolve().parents[2]
_SCRIPT = Path(__file__).with_name("inside.sh")
_POLL_S = 0.2
_END_S = 10.0
_KVM_PROBE_S = 8.0


class Guest:
    """A running virtual machine; `lines` yields what the pytest inside writes until the machine is off."""

    def __init__(
        self, kernel: Kernel, directory: Path, *tests: str, limit: float = 3600, counted: bool = False
    ) -> None:
        """Boot, for at most `limit` seconds. `directory` is the guest's only writable piece of the host.

        Instead of tests it may be told "--run" and a command. With `counted`, the machine is emulated and its clock
        advances by a nanosecond with each instruction.
        """
        self.booted = time.monotonic()
        self._reports = directory / "reports.jsonl"
        self._reports.touch()
        self._said = directory / "output.txt"
        self._console = directory.with_name(f"{directory.name}-console.txt")
        programs = os.environ.get("CACHE_DIRECTORY", CACHE)
        command = [
            # Ends the machine also when the pytest that started it is killed, and whatever else happens, at its limit.
            *("setpriv", "--pdeathsig", "TERM"),
            *("timeout", "--kill-after", str(_END_S), str(limit)),
            "vng",
            *("--run", str(kernel.image), "--busybox", str(static_busybox())),
            # One processor: emulating two makes every atomic instruction, and so all of it, cost twice as much.
            *("--user", "root", "--cpus", "1", "--memory", "2G", "--verbose"),
            *("--rwdir", str(directory)),
            *([] if not counted and kvm_boots(kernel.image) else ["--disable-kvm"]),
            # The host's files once more, for inside.sh to mount with a cache.
            "--qemu-opts=-virtfs local,path=/,mount_tag=cached,readonly=on,security_model=none,multidevs=remap"
            + (" -icount shift=0,sleep=on" if counted else ""),
            *("--exec", " ".join(map(str, (_SCRIPT, PROJECT, directory, programs, *tests)))),
        ]
        # Scripts of the environment, also when it is not activated: vng looks for virtme-run on PATH.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def lines(self, deadline: float) -> Iterator[str]:
        """Yield each report as it comes. Raises TimeoutError at `deadline` (time.monotonic)."""
        with self._reports.open(encoding="utf-8") as reports:
            part = ""
            while True:
                running = self._process.poll() is None
                while piece := reports.readline():
                    part += piece
                    if part.endswith("\n"):
                        yield part
                        part = ""
                if not running:
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError
                time.sleep(_POLL_S)

    def tests(self) -> set[str]:
        """The names of the tests that have begun so far."""
        lines = map(json.loads, self._reports.read_text(encoding="utf-8").splitlines())
        return {line["started"] for line in lines if "started" in line}

    def story(self) -> str:
        """What the kernel and the tests' own output ended with, for a run that did not end well."""
        return "\n".join(_tail(path) for path in (self._console, self._said) if path.exists())

    def end(self) -> None:
        """End the machine and what started it; already being off is fine."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def kvm_boots(image: Path) -> bool:
    """Whether KVM runs an ordinary kernel here: found out with the first image, true of the others."""
    if not _found_out:
        _found_out.append(os.access("/dev/kvm", os.R_OK | os.W_OK) and _panics_under_kvm(image))
    return _found_out[0]


_found_out: list[bool] = []


def _panics_under_kvm(image: Path) -> bool:
    """Boot without any file system: the kernel panics and leaves, within two seconds where KVM works.

    /dev/kvm is there on clouds where it does not, and the machine hangs.
    """
    machine = ["-accel", "kvm", "-cpu", "max", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot"]
    with tempfile.TemporaryFile() as said:
        probe = subprocess.Popen(
            ["qemu-system-x86_64", *machine, "-kernel", image, "-append", "panic=-1"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        deadline = time.monotonic() + _KVM_PROBE_S
        while probe.poll() is None and time.monotonic() < deadline and not os.fstat(said.fileno()).st_size:
            time.sleep(_POLL_S)
        probe.kill()
    return probe.wait() == 0


def _tail(path: Path, lines: int = 60) -> str:
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"--- {path.name}, its last lines", *text[-lines:]])
