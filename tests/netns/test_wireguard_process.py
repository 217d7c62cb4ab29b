"""wireguard-go as a process: it outlives its controller, dies with its interface, and is never taken for another."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jetplane.errors import BackendError
from jetplane.lab import namespaces
from jetplane.lab.waiting import wait_until
from jetplane.plan import SetPeer
from jetplane.readable import readable
from jetplane.wireguard import choose, process, uapi
from tests.netns.wireguard_tunnel import Tunnel, as_wg_says, made, peer

CREATE_AND_WAIT = """
import sys
from jetplane.wireguard import choose
choose("userspace").create(sys.argv[1])
print("made", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def userspace(root: None, unique: Callable[[str], str], tmp_path: Path) -> Iterator[Tunnel]:
    with made("userspace", unique, tmp_path) as one:
        yield one


def pid_of(tunnel: Tunnel) -> int:
    owner = tunnel.inside(lambda: process.owner(tunnel.name))
    assert owner is not None and owner.ours
    return owner.pid


def kill(pid: int) -> None:
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    readable(handle, 10)
    os.close(handle)


def gone(pid: int) -> bool:
    """Whether no such process runs; one that waits for its parent to notice has ended, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_it_outlives_its_controller_and_the_next_one_takes_it_over(userspace: Tunnel) -> None:
    userspace.delete()
    command = [sys.executable, "-c", CREATE_AND_WAIT, userspace.name]
    first = userspace.inside(
        lambda: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"made\n"
        pid = pid_of(userspace)
        assert os.getsid(pid) == pid, "a signal to the controller's session must not reach it"
        os.killpg(first.pid, signal.SIGKILL)
    userspace.create()
    assert pid_of(userspace) == pid
    userspace.configure()
    userspace.apply([SetPeer(peer(1))])
    assert userspace.peers() == as_wg_says([peer(1)])
    userspace.delete()
    assert gone(pid)


def test_deleting_it_ends_the_process_and_the_interface(userspace: Tunnel) -> None:
    pid = pid_of(userspace)
    userspace.delete()
    assert not Path(f"/proc/{pid}").exists(), "a child that nobody waited for"
    assert userspace.name not in userspace.run("ip", "link", "show")


def test_a_process_that_ignores_the_request_is_killed(userspace: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = pid_of(userspace)
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(process, "STOP_DEADLINE_S", 0.2)
    userspace.delete()
    assert gone(pid)


def test_a_socket_left_by_a_dead_process_is_in_nobodys_way(userspace: Tunnel) -> None:
    kill(pid_of(userspace))
    assert uapi.socket_path(userspace.name).exists()
    with pytest.raises(BackendError, match="no wireguard-go answers"):
        userspace.apply([SetPeer(peer(1))])
    userspace.create()
    userspace.configure()
    userspace.apply([SetPeer(peer(1))])
    assert userspace.peers() == as_wg_says([peer(1)])


def test_deleting_removes_the_socket_of_a_dead_process(userspace: Tunnel) -> None:
    kill(pid_of(userspace))
    userspace.delete()
    assert not uapi.socket_path(userspace.name).exists()


def test_an_interface_of_the_same_name_in_another_namespace_is_not_taken_over(
    userspace: Tunnel, unique: Callable[[str], str]
) -> None:
    """The directory of sockets is one for all namespaces."""
    elsewhere = unique("n")
    namespaces.create(elsewhere)
    try:
        backend = choose("userspace")
        for work in (
            lambda: backend.create(userspace.name),
            lambda: backend.apply(userspace.name, [SetPeer(peer(1))]),
            lambda: backend.configure(userspace.device),
            lambda: backend.observe(userspace.name),
        ):
            with pytest.raises(BackendError, match="another network namespace"):
                namespaces.inside(elsewhere, work)
        namespaces.inside(elsewhere, lambda: backend.delete(userspace.name))
        assert userspace.peers() == {}
    finally:
        namespaces.remove(elsewhere)


def test_one_that_somebody_else_started_in_the_background_is_left_alone(userspace: Tunnel) -> None:
    """Its socket was opened by a process that is gone, so nobody can tell whose it is."""
    userspace.delete()
    userspace.run("env", "WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1", "wireguard-go", userspace.name)
    try:
        with pytest.raises(BackendError, match="did not start") as error:
            userspace.create()
        assert "stop that process" in error.value.hint
    finally:
        uapi.socket_path(userspace.name).unlink()  # which ends it
        wait_until("wireguard-go to end", lambda: userspace.name not in userspace.run("ip", "link", "show"))


def test_no_core_file_holds_its_keys(userspace: Tunnel) -> None:
    assert resource.prlimit(pid_of(userspace), resource.RLIMIT_CORE) == (0, 0)


def test_it_keeps_no_directory_busy_and_writes_no_log(userspace: Tunnel) -> None:
    proc = Path(f"/proc/{pid_of(userspace)}")
    assert (proc / "cwd").readlink() == Path("/")
    assert {(proc / "fd" / str(n)).readlink() for n in range(3)} == {Path(os.devnull)}
    assert b"LOG_LEVEL=silent" in (proc / "environ").read_bytes().split(b"\0")


def test_a_program_that_cannot_start_is_named(
    userspace: Tunnel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    userspace.delete()
    broken = tmp_path / "wireguard-go"
    broken.write_text("#!/bin/sh\nexit 7\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(BackendError, match=f"{userspace.name}: wireguard-go ended with status 7"):
        userspace.create()


def test_one_that_never_opens_its_socket_is_given_up_and_killed(
    userspace: Tunnel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    userspace.delete()
    idle = tmp_path / "wireguard-go"
    idle.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    idle.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(process, "START_DEADLINE_S", 1.0)
    with pytest.raises(BackendError, match="did not open its socket"):
        userspace.create()
    assert gone(int((tmp_path / "pid").read_text()))
