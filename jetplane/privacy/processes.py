"""Judges the node's processes: what could leave their memory, what is in it, and what they hold open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jetplane.privacy.facts import CONTROLLER, EXPORTER, WIREGUARD_GO, Facts, Process
from jetplane.privacy.question import Answer, Question, answer

_FILTER = 2  # SECCOMP_MODE_FILTER


def _looked(processes: Iterable[Process], what: str) -> str:
    names = ", ".join(str(process) for process in processes)
    return f"{what} of {names}" if names else f"{what}: no process of the node runs"


def _swap(facts: Facts) -> Answer:
    broken = [
        finding
        for process in facts.processes
        if process.role != EXPORTER
        for finding in _swap_findings(process, facts.kernel.swap)
    ]
    well = "no page is, or can be, swapped out" + ("" if facts.kernel.swap else "; this machine has no swap")
    looked = _looked(facts.processes, "/proc/swaps, locked and swapped memory")
    return answer(looked, broken, well, "swapoff -a, or MemorySwapMax=0 and LimitMEMLOCK=infinity in the unit; restart")


def _swap_findings(process: Process, swap: bool) -> Iterator[str]:
    if process.swapped_kb:
        yield f"{process.swapped_kb} KiB of the {process} are swapped out"
    if process.role == CONTROLLER and not process.locked_kb:
        yield f"the {process} has no locked memory (mlockall)"
    if process.role == WIREGUARD_GO and swap and process.may_swap and not process.locked_kb:
        yield f"the {process} holds every endpoint and may be swapped out"


def _core_dumps(facts: Facts) -> Answer:
    piped = facts.kernel.core_pattern.startswith("|")
    broken = [finding for process in facts.processes for finding in _core_findings(process, piped)]
    if facts.kernel.crash_kernel:
        broken.append("a crash of the kernel would be written to disk (kdump)")
    looked = _looked(facts.processes, "core limits and dumpable flags") + ", the core pattern and kdump"
    hint = "restart the node under its unit (LimitCORE=0); systemctl disable --now kdump-tools; no pipe in core_pattern"
    return answer(looked, broken, "no dump can be made", hint)


def _core_findings(process: Process, piped: bool) -> Iterator[str]:
    if process.core_limit != "0":
        yield f"the {process} may write core files (limit {process.core_limit})"
    if process.dumpable and (process.role in (CONTROLLER, EXPORTER) or piped):
        yield f"the {process} is dumpable"


def _memory(facts: Facts) -> Answer:
    memory = facts.memory
    looked = f"the memory of {len(memory.pids)} processes, for {memory.needles} secrets"
    if memory.peers:
        looked += f" of the node and of peers chosen by chance ({memory.peers} in all)"
    roles = {process.pid: str(process) for process in facts.processes}
    broken = [
        f"{found.kind} as {found.form}, {found.count} times in the {roles.get(found.pid, found.pid)}"
        for found in memory.found
    ]
    if memory.trouble:
        broken.append(memory.trouble)
    return answer(looked, broken, "none is there", "restart the process, and report this: it is a fault of jetplane's")


def _arguments(facts: Facts) -> Answer:
    broken = [
        f"{kind} in the {where} of the {process}"
        for process in facts.processes
        for where, kinds in (("arguments", process.in_arguments), ("environment", process.in_environment))
        for kind in kinds
    ]
    looked = _looked(facts.processes, "arguments and environment")
    return answer(looked, broken, "paths and settings only", "restart it without; every user can read arguments")


def _exporter(facts: Facts) -> Answer:
    exporters = [process for process in facts.processes if process.role == EXPORTER]
    broken = [f"the {process} {finding}" for process in exporters for finding in _rights(process)]
    well = "own user, no capability, none to be had" if exporters else "no exporter runs"
    return answer(_looked(exporters, "user, capabilities, no_new_privs, seccomp"), broken, well, "restart the node")


def _rights(process: Process) -> Iterator[str]:
    if 0 in process.uids:
        yield "runs as root"
    if process.capabilities:
        yield f"has capabilities ({process.capabilities:#x})"
    if not process.no_new_privileges:
        yield "could gain rights (no_new_privs is not set)"
    if process.seccomp != _FILTER:
        yield "may make any system call (no seccomp filter)"


def _descriptors(facts: Facts) -> Answer:
    exporters = [process for process in facts.processes if process.role == EXPORTER]
    broken = [f"the {process} holds {held}" for process in exporters for held in process.descriptors]
    well = "its listening socket, its connections and the release" if exporters else "no exporter runs"
    hint = "restart the node, and report this: the exporter needs nothing else"
    return answer(_looked(exporters, "open files and sockets"), broken, well, hint)


QUESTIONS = (
    Question("swap", "no memory of the node comes to be on disk", _swap),
    Question("core-dumps", "no dump of memory comes to be on disk", _core_dumps),
    Question(
        "memory", "no process but WireGuard holds an endpoint or a private key; the exporter holds no key", _memory
    ),
    Question("arguments", "no secret stands where every user can read it", _arguments),
    Question("exporter-rights", "what speaks to the network has no right to anything", _exporter),
    Question("exporter-descriptors", "the exporter cannot ask the kernel about a peer", _descriptors),
)
