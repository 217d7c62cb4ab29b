"""Every BPF program there is, where it is written and where it is attached."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from jetplane.config import Config


class ProgramType(IntEnum):
    """enum bpf_prog_type, include/uapi/linux/bpf.h; only the types in use."""

    SCHED_CLS = 3
    XDP = 6


class Hook(Enum):
    """Where a program sits on an interface."""

    XDP = "xdp"
    INGRESS = "tc ingress"
    EGRESS = "tc egress"


@dataclass(frozen=True, slots=True)
class Program:
    """One program; its name is that of its C function and of its pin."""

    name: str
    source: str
    type: ProgramType
    hook: Hook | None = None  # None: never attached, run by the controller
    tunnel: bool = False  # on every tunnel instead of the uplink
    dns: bool = False  # only where the DNS service needs it


@dataclass(frozen=True, slots=True)
class Attachment:
    """What is to be seen at one place."""

    program: str
    interface: str
    hook: str
    present: bool
    mode: str  # "native", "generic" or "tc"; "" when nothing of ours is there


PROGRAMS = (
    Program("leak_guard", "nat.bpf.c", ProgramType.SCHED_CLS, Hook.EGRESS),
    Program("nat_in", "nat.bpf.c", ProgramType.SCHED_CLS, Hook.INGRESS),
    Program("dns_answer", "nat.bpf.c", ProgramType.SCHED_CLS, Hook.EGRESS, tunnel=True, dns=True),
    Program("nat_out", "nat.bpf.c", ProgramType.SCHED_CLS, Hook.INGRESS, tunnel=True),
    Program("guard", "guard.bpf.c", ProgramType.XDP, Hook.XDP),
    Program("sweep", "nat.bpf.c", ProgramType.SCHED_CLS),
    Program("sweep_remotes", "nat.bpf.c", ProgramType.SCHED_CLS),
    Program("sweep_steered", "nat.bpf.c", ProgramType.SCHED_CLS),
    Program("sweep_relays", "guard.bpf.c", ProgramType.XDP),
    Program("sweep_budgets", "guard.bpf.c", ProgramType.XDP),
)
"""In the order of attaching: what keeps packets from leaving untranslated comes first and, as detaching goes the
other way round, leaves last."""


def attached(config: Config) -> tuple[Program, ...]:
    """The programs that have a place on the node's interfaces, in the order of attaching.

    The DNS service needs one of its own only where answers are to be changed, or may have to go by another tunnel.
    """
    answers = config.dns.service and (config.dns.steer or any(tunnel.follows for tunnel in config.tunnel))
    return tuple(program for program in PROGRAMS if program.hook and (answers or not program.dns))
