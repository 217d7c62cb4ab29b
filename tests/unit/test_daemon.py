"""The small parts of the daemon: waiting, health, timers, the lock, what systemd is told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetplane import backoff, lock, status, supervisor
from jetplane.errors import BackendError, JetplaneError, KernelError
from jetplane.health import Health
from jetplane.schedule import Schedule


@given(st.integers(1, 1000), st.floats(0, 1, exclude_max=True))
def test_waiting_grows_to_a_minute_and_never_beyond(failures: int, chance: float) -> None:
    wait = backoff.delay(failures, chance)
    assert 0.75 <= wait <= 60
    assert backoff.delay(failures + 1, chance) >= wait


def test_a_failure_stands_until_the_same_work_succeeds() -> None:
    health = Health()
    assert health.failed("verify", KernelError("link jet0: no such device"))
    assert not health.failed("verify", KernelError("link jet0: no such device")), "said already"
    assert health.failed("peers", BackendError("refused"))
    assert health.problems() == ("peers: refused", "verify: link jet0: no such device")
    assert health.wait("verify", 0) == 2.0
    assert health.succeeded("verify")
    assert not health.succeeded("verify")
    assert health.problems() == ("peers: refused",)
    assert health.wait("verify", 0) == 0.0
    assert dict(health.errors) == {"kernel": 2, "backend": 1}


def test_a_timer_set_again_is_moved_not_doubled() -> None:
    schedule, calls = Schedule(), []
    schedule.once(3600, "a", lambda: calls.append("late"))
    schedule.once(0, "a", lambda: calls.append("now"))
    schedule.every(0.001, "b", lambda: calls.append("b"))
    while calls.count("b") < 3:
        wait = schedule.run()
        assert wait is not None
        assert wait <= 0.001
    assert calls.count("now") == 1
    assert "late" not in calls


def test_the_second_controller_is_refused_and_the_first_ones_death_frees_the_lock(tmp_path: Path) -> None:
    hold = "import sys; from pathlib import Path; from jetplane.lock import controller_lock\n"
    hold += "with controller_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout
        assert first.stdout.readline() == b"held\n"
        assert lock.holder(tmp_path) == first.pid
        with (
            pytest.raises(JetplaneError, match=f"already running \\(pid {first.pid}\\)"),
            lock.controller_lock(tmp_path),
        ):
            pass
        first.kill()
    assert lock.holder(tmp_path) is None
    with lock.controller_lock(tmp_path):
        assert (tmp_path / lock.FILE).read_text() == f"{os.getpid()}\n"


def test_signals_arrive_as_bytes_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with supervisor.wakeups(signal.SIGHUP) as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.recv(8) == bytes([signal.SIGHUP])
    assert signal.getsignal(signal.SIGHUP) is before


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        supervisor.notify("READY=1")
        assert manager.recv(64) == b"READY=1"
    supervisor.notify("WATCHDOG=1")  # the manager is gone; that must not matter
    monkeypatch.delenv("NOTIFY_SOCKET")
    supervisor.notify("STOPPING=1")


def test_the_status_survives_its_file(tmp_path: Path) -> None:
    said = status.Status(
        version="0.1.0",
        pid=7,
        ready=True,
        wireguard="kernel",
        transport="wireguard",
        generation=3,
        tunnels=(status.TunnelStatus("jet0", 51820, 2, 1),),
        errors={"kernel": 1},
        problems=("verify: link jet0: no such device",),
    )
    status.write(tmp_path, said)
    assert status.read(tmp_path) == said


def test_no_status_says_that_no_node_runs(tmp_path: Path) -> None:
    with pytest.raises(JetplaneError) as caught:
        status.read(tmp_path)
    assert "no node runs here" in caught.value.hint
    (tmp_path / status.FILE).write_text("{")
    with pytest.raises(JetplaneError, match="is not a status file"):
        status.read(tmp_path)
