"""Progress is for people: on a terminal's standard error, and nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

WORK = "from jetplane.cli.progress import track; print(sum(track(range(300), 'peers', 300, quiet={quiet})))"


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_sees_a_bar_unless_json_is_asked_for(quiet: bool) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", WORK.format(quiet=quiet)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, check=True)
    os.write(theirs, b"the end")
    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert done.stdout == b"44850\n"
    assert (b"300/300" in shown) is not quiet


def test_a_pipe_sees_none() -> None:
    done = subprocess.run([sys.executable, "-c", WORK.format(quiet=False)], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"44850\n", b"")
