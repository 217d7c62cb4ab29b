"""Judges the kernel's own memory and voice: its log, conntrack, the path MTU cache, captures, crash dumps."""

from __future__ import annotations

from jetplane.privacy.facts import Facts
from jetplane.privacy.question import Answer, Question, answer

MOST_S = 210
"""The longest that kernel memory may remember a peer after the last possible use of its session."""


def _kernel_log(facts: Facts) -> Answer:
    on = [f"log_martians is on for {name}" for name, value in facts.kernel.log_martians.items() if value != "0"]
    looked = f"log_martians of {', '.join(sorted(facts.kernel.log_martians))}"
    hint = "set net.ipv4.conf.*.log_martians=0; the running node does so every 30 s: find out who sets it"
    return answer(looked, on, "odd packets are not logged", hint)


def _dynamic_debug(facts: Facts) -> Answer:
    sites = facts.kernel.dynamic_debug
    broken = [f"{sites} messages of the wireguard module are on: they name endpoints"] if sites else []
    well = "this kernel has none" if sites is None else "off"
    hint = "echo 'module wireguard -p' > /proc/dynamic_debug/control, then look who wrote it"
    return answer("dynamic debug of the wireguard module", broken, well, hint)


def _conntrack(facts: Facts) -> Answer:
    count = facts.kernel.tracked
    broken = [f"it remembers {count} connections of this namespace: who talked to whom"] if count else []
    well = "not there" if count is None else "remembers nothing"
    hint = "take stateful rules out of this namespace's firewall, or exempt everything of the node (notrack)"
    return answer("the connections that conntrack remembers in this namespace", broken, well, hint)


def _path_mtu(facts: Facts) -> Answer:
    values = facts.kernel.path_mtu_expires
    broken = [f"{name} = {value} s" for name, value in values.items() if value > MOST_S]
    hint = f"set them to {MOST_S} or less; the running node does so every 30 s: find out who sets it"
    return answer(", ".join(sorted(values)), broken, f"forgets within {max(values.values(), default=0)} s", hint)


def _captures(facts: Facts) -> Answer:
    well = "none sees every packet, or a tunnel's"
    hint = "end it: it sees who talks to whom"
    return answer("packet sockets in this namespace", facts.kernel.captures, well, hint)


QUESTIONS = (
    Question("kernel-log", "the kernel's log names no address", _kernel_log),
    Question("dynamic-debug", "the kernel's log names no endpoint", _dynamic_debug),
    Question("conntrack", "no table of flows remembers who talked to whom", _conntrack),
    Question("path-mtu-cache", f"what the stack learns of a path is forgotten within {MOST_S} s", _path_mtu),
    Question("captures", "nobody records packets on this node", _captures),
)
