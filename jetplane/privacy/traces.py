"""Judges what is written down: logs, the disk, the run directory."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Collection, Iterator

from jetplane.privacy.facts import Facts, RunFile
from jetplane.privacy.question import Answer, Question, answer

ROOTS_FILES = ("admin.sock",)
"""What nobody but root may reach; of the rest others may read that nothing of a peer stands there."""

IN_MEMORY = frozenset({"tmpfs", "ramfs"})

RUN_FILES = (
    "admin.sock", "build", "clsact.json", "controller.pid", "epochs.json", "foreign.json", "journal.json",
    "layout.json", "ledger.json", "metrics", "metrics/exposition.openmetrics", "metrics/exposition.txt",
    "released.json", "status.json",
)  # fmt: skip
"""Everything that a run directory may hold; new versions of a file carry `.new` for a moment."""

_KEY = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}=(?![A-Za-z0-9+/=])")
_HEX_KEY = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{64}(?![0-9a-fA-F])")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:.])")


def kinds(text: str, *, known: Collection[str] = ()) -> Iterator[str]:
    """The kinds of identifiers in a text: "key", "address". Addresses that the node's own files name are known."""
    if any(map(_is_key, _KEY.findall(text))) or _HEX_KEY.search(text):
        yield "key"
    if any(_is_somebodys(found, known) for found in (*_IPV4.findall(text), *_IPV6.findall(text))):
        yield "address"


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except binascii.Error:
        return False


def _is_somebodys(text: str, known: Collection[str]) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return str(address) not in known and not (address.is_loopback or address.is_unspecified)


def _log(facts: Facts) -> Answer:
    broken = [
        f"{log.name}: {kind} in {count} of {log.lines} lines"
        for log in facts.logs
        for kind, count in sorted(log.found.items())
    ]
    looked = ", ".join(f"{log.name} ({log.lines} lines)" for log in facts.logs) or "no log can be found"
    hint = "erase the log, and report this: no event of jetplane's names anybody"
    return answer(looked, broken, "no key and no stranger's address", hint)


def _disk(facts: Facts) -> Answer:
    broken = [f"{process} writes {path}" for process in facts.processes for path in process.writes]
    if facts.run_file_system not in IN_MEMORY and not facts.run_directory.startswith("/run/"):
        broken.append(f"{facts.run_directory} is on {facts.run_file_system}")
    well = f"nothing outside {facts.run_directory}, which is on {facts.run_file_system}"
    looked = f"files that {len(facts.processes)} processes hold open for writing, the file system of the run directory"
    hint = "set run_directory to a place below /run; report a file that is written elsewhere"
    return answer(looked, broken, well, hint)


def _run_files(facts: Facts) -> Answer:
    broken = [finding for file in facts.run_files for finding in _file_findings(file)]
    hint = "remove what is not jetplane's; restart the node for the rest"
    looked = f"{len(facts.run_files)} files of {facts.run_directory}: names, modes, contents"
    return answer(looked, broken, "those of the list, and no identifier of a peer in them", hint)


def _file_findings(file: RunFile) -> Iterator[str]:
    if _plain(file.path) not in RUN_FILES:
        yield f"{file.path} is not of the list"
    if file.uid != 0 or file.mode & (0o077 if file.path in ROOTS_FILES else 0o022):
        yield f"{file.path}: mode {file.mode:04o}, owner {file.uid}"
    for kind in file.found:
        yield f"{file.path} holds a {kind}"


def _plain(path: str) -> str:
    """The name that a file will have: `.x.new` and `x.new` become `x`."""
    directory, slash, name = path.rpartition("/")
    return directory + slash + (name.removeprefix(".").removesuffix(".new") if name.endswith(".new") else name)


QUESTIONS = (
    Question("logs", "no log names a key or an address", _log),
    Question("disk", "what happens on the node is written to no disk", _disk),
    Question("run-files", "the run directory says nothing of a peer, and what it says only to root", _run_files),
)
