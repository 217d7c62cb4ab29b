"""Work in a short-lived process of its own: much memory, or a library that nobody should keep, leaves with it.

The task goes in as one JSON object on standard input, what came of it comes back as one on standard output.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jetplane import errors
from jetplane.errors import JetplaneError, KernelError

_PR_SET_PDEATHSIG = 1


def ask(module: str, task: dict[str, Any], *, timeout: float) -> dict[str, Any]:
    """Run a module whose main is `serve`, and return its report.

    Raises what the child raised; CompileError or KernelError when it came to no report.
    """
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "LC_ALL": "C.UTF-8",
    }
    # -P: a directory named bcc where the operator happens to stand is not imported
    command = [sys.executable, "-P", "-m", module]
    name = module.rpartition(".")[2]
    try:
        done = subprocess.run(
            command,
            check=False,
            input=json.dumps({**task, "parent": os.getpid()}),
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise errors.CompileError(f"{name} took more than {timeout:.0f} s") from None
    except OSError as error:
        raise errors.CompileError(f"starting {sys.executable}: {error.strerror}") from None
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise errors.CompileError(f"{name} ended with status {done.returncode}: {last}") from None
    if kind := report.get("error"):
        if kind == "KernelError":
            raise KernelError(report["message"], errno=report["errno"], hint=report["hint"])
        raise getattr(errors, kind)(report["message"], hint=report["hint"])
    return report


def serve(work: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """The child's side: read the task, do it, report it. Exit status 0 when there is a report."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # never outlive the one who asked
    task = json.load(sys.stdin)
    if os.getppid() != task["parent"]:  # who had died before that took effect; the next one may be at work by now
        return 1
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")  # what the work prints itself is not the report
    try:
        result = work(task)
    except JetplaneError as error:
        number = error.errno if isinstance(error, KernelError) else 0
        result = {"error": type(error).__name__, "message": str(error), "hint": error.hint, "errno": number}
    json.dump(result, report)
    report.close()
    return 0
