"""Judges the machine itself: rights, kernel, BPF, compiler, WireGuard, clock, and what could keep traces."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

from jetplane.config import Config
from jetplane.preflight.facts import CAPABILITIES, Check, Facts, Judgement

_OLDEST = (6, 1)
_TRIED = {(6, 1), (6, 12), (6, 18)}
_BEFORE_THIS_PROGRAM = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)


def _rights(_: Config, facts: Facts) -> Iterator[Check]:
    missing = facts.missing_rights()
    if missing:
        yield Check("rights", False, f"missing: {', '.join(missing)}", "run as root")
    else:
        yield Check("rights", True, ", ".join(CAPABILITIES.values()))


def _kernel(_: Config, facts: Facts) -> Iterator[Check]:
    found = re.match(r"(\d+)\.(\d+)", facts.release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    oldest = ".".join(map(str, _OLDEST))
    tried = ", ".join(".".join(map(str, known)) for known in sorted(_TRIED))
    if version < _OLDEST:
        yield Check("kernel", False, f"{facts.release}: {oldest} is the oldest that works", "install a newer kernel")
    elif version not in _TRIED:
        yield Check("kernel", "warn", f"{facts.release}: jetplane was tried on {tried}", "try it before subscribers do")
    else:
        yield Check("kernel", True, facts.release)


def _bpf(_: Config, facts: Facts) -> Iterator[Check]:
    if not facts.bpffs:
        yield Check("BPF", False, "this kernel has no bpf file system", "use a kernel with CONFIG_BPF_SYSCALL")
    elif facts.missing_rights():
        return
    elif not facts.bpf.ok:
        hint = facts.bpf.hint or "use a kernel with CONFIG_BPF_SYSCALL; a container must be allowed to use bpf(2)"
        yield Check("BPF", False, facts.bpf.detail, hint)
    elif facts.jit is False:
        hint = "sysctl net.core.bpf_jit_enable=1"
        yield Check("BPF", "warn", "programs are interpreted, several times slower than compiled ones", hint)
    else:
        yield Check("BPF", True, "programs load, and run as machine code")


def _compiler(_: Config, facts: Facts) -> Iterator[Check]:
    yield from facts.answered("compiler", facts.compiler)
    yield from facts.answered("headers", facts.headers)


def _wireguard(config: Config, facts: Facts) -> Iterator[Check]:
    if config.transport == "veth":
        yield Check("WireGuard", "warn", "none: plain Ethernet in its place, which is not a VPN", "for measuring only")
    else:
        yield from facts.answered("WireGuard", facts.wireguard)


def _clock(_: Config, facts: Facts) -> Iterator[Check]:
    now = datetime.datetime.fromtimestamp(facts.now, datetime.UTC)
    if now < _BEFORE_THIS_PROGRAM:
        hint = "set it, and keep it set by NTP: metrics epochs and handshakes go by it"
        yield Check("clock", False, f"it is not {now:%Y-%m-%d}", hint)
    elif not facts.clock_synchronised:
        hint = "start systemd-timesyncd or chrony: metrics epochs and handshakes go by the clock"
        yield Check("clock", "warn", "nothing keeps it synchronised", hint)
    else:
        yield Check("clock", True, "synchronised")


def _conntrack(_: Config, facts: Facts) -> Iterator[Check]:
    if facts.tracked:
        hint = "take stateful rules out of the firewall, or exempt the WireGuard ports (notrack)"
        detail = "the kernel tracks connections in this namespace: its table says who talks to whom"
        yield Check("conntrack", "warn", detail, hint)
    else:
        yield Check("conntrack", True, "not there" if facts.tracked is None else "tracks nothing")


def _kernel_log(_: Config, facts: Facts) -> Iterator[Check]:
    if facts.log_martians:
        names = ", ".join(sorted(facts.log_martians))
        detail = f"odd packets are logged with their addresses ({names}); switched off while the node runs"
        yield Check("kernel log", True, detail)
    else:
        yield Check("kernel log", True, "names no addresses")


def _traces(_: Config, facts: Facts) -> Iterator[Check]:
    if facts.swap:
        hint = "swapoff -a, or MemorySwapMax=0 in the unit; it matters most with userspace WireGuard"
        yield Check("swap", "warn", "on: what is in memory may come to be on disk", hint)
    else:
        yield Check("swap", True, "off")
    if facts.crash_kernel:
        hint = "systemctl disable --now kdump-tools; on other distributions kdump"
        yield Check(
            "crash dumps", "warn", "a crash of the kernel is written to disk, keys and addresses included", hint
        )
    else:
        yield Check("crash dumps", True, "off")


CHECKS: tuple[Judgement, ...] = (
    _rights, _kernel, _bpf, _compiler, _wireguard, _clock, _conntrack, _kernel_log, _traces,
)  # fmt: skip
