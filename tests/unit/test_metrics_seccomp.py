"""The exporter's filter of system calls, judged instruction by instruction for both architectures."""

from __future__ import annotations

import errno
import os
import platform
import re
import struct
from pathlib import Path

import pytest

from jetplane.errors import RequirementError
from jetplane.metrics import seccomp
from jetplane.metrics.seccomp import ALLOW, KILL, MACHINES, NUMBERS, REFUSE, Machine, program

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
_DEFINED = re.compile(r"^#define\s+__NR(?:3264)?_(?P<name>\w+)\s+(?P<number>\d+)", re.MULTILINE)

FORBIDDEN = (
    "socket", "socketpair", "connect", "bind", "bpf", "execve", "execveat", "clone", "clone3", "ptrace",
    "process_vm_readv", "memfd_create", "openat2", "io_uring_setup", "perf_event_open", "setns", "unshare", "mount",
    "init_module", "kexec_load", "keyctl", "userfaultfd", "setuid", "capset", "seccomp", "prctl", "pidfd_getfd",
    "unlinkat", "renameat2", "mkdirat", "linkat", "truncate", "fchmodat", "recvmsg", "dup3", "kill",
)  # fmt: skip


def numbers(machine: str) -> dict[str, int]:
    """Name → number, as the header has it; __NR3264_ is of those that differ between 32 and 64 bits."""
    return {found["name"]: int(found["number"]) for found in _DEFINED.finditer(HEADERS[machine].read_text())}


def judge(machine: Machine, number: int, *arguments: int, audit: int | None = None) -> int:
    """Run the filter as the kernel would: linux/filter.h, struct seccomp_data."""
    words = [*arguments, *(0,) * (6 - len(arguments))]
    data = struct.pack("=iIQ6Q", number, machine.audit if audit is None else audit, 0, *words)
    steps, at, accumulator = [struct.unpack("=HBBI", step) for step in program(machine)], 0, 0
    while True:
        code, yes, no, operand = steps[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x15:
                at += yes if accumulator == operand else no
            case 0x45:
                at += yes if accumulator & operand else no
            case 0x06:
                return int(operand)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_those_of_the_headers(machine: str) -> None:
    found, column = numbers(machine), MACHINES[machine].column
    for name, both in NUMBERS.items():
        assert found.get(name, found.get(name.replace("newfstatat", "fstatat"), -1)) == both[column], name
    assert found["seccomp"] == MACHINES[machine].seccomp


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_not_listed_is_refused(machine: str) -> None:
    found = numbers(machine)
    for name in FORBIDDEN:
        assert judge(MACHINES[machine], found[name]) == REFUSE == 0x50000 | errno.EPERM, name
    allowed = {name for name, number in found.items() if judge(MACHINES[machine], number, -1 & 0xFFFFFFFF) == ALLOW}
    assert {"recvfrom", "sendto"} <= allowed <= {*NUMBERS, "fstatat"}


CONDITIONS = (
    ("openat", (0, 0, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY), ALLOW),
    ("openat", (0, 0, os.O_WRONLY), REFUSE),
    ("openat", (0, 0, os.O_RDWR), REFUSE),
    ("openat", (0, 0, os.O_RDONLY | os.O_CREAT), REFUSE),
    ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC), REFUSE),
    ("openat", (0, 0, os.O_TMPFILE | os.O_RDWR), REFUSE),
    ("mmap", (0, 4096, 3), ALLOW),
    ("mmap", (0, 4096, 7), REFUSE),
    ("mprotect", (0, 4096, 1), ALLOW),
    ("mprotect", (0, 4096, 5), REFUSE),
    ("ioctl", (3, 0x5421), ALLOW),
    ("ioctl", (3, 0x5412), REFUSE),  # TIOCSTI: types into a terminal
)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("name", "arguments", "verdict"), CONDITIONS)
def test_some_are_allowed_in_part(machine: str, name: str, arguments: tuple[int, ...], verdict: int) -> None:
    described = MACHINES[machine]
    assert judge(described, NUMBERS[name][described.column], *arguments) == verdict


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_architecture_kill(machine: str) -> None:
    """On x86-64, number 0 is read; for 32 bits it is restart_syscall. x32 has its own bit in the number."""
    described = MACHINES[machine]
    assert judge(described, NUMBERS["read"][described.column]) == ALLOW
    assert judge(described, NUMBERS["read"][described.column], audit=0x40000003) == KILL
    assert judge(described, 0x40000000 | NUMBERS["read"][described.column]) == REFUSE


def test_a_machine_without_a_filter_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(RequirementError, match="no filter of system calls for riscv64") as caught:
        seccomp.confine()
    assert "metrics.enabled = false" in caught.value.hint


def test_a_kernel_without_filters_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Machine) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(seccomp, "_install", refuse)
    with pytest.raises(RequirementError, match="cannot have its system calls filtered: Invalid argument") as caught:
        seccomp.confine()
    assert "CONFIG_SECCOMP_FILTER" in caught.value.hint
