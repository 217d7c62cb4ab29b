"""A real nats-server on this machine's loopback, and a control plane that writes to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js.api import KeyValueConfig
from nats.js.errors import KeyDeletedError, KeyNotFoundError, NoStreamResponseError, ServiceUnavailableError
from nats.js.kv import KeyValue

from jetplane.lab import namespaces
from jetplane.lab.waiting import patience
from jetplane.model import PublicKey
from jetplane.sources.replica import kv_key

PATIENCE_S = patience(15.0)
BUCKET = "peers-lab"
_T = TypeVar("_T")


class Server:
    """One server with JetStream under `directory`; `extra` is appended to its configuration."""

    def __init__(self, directory: Path, extra: str = "", *, scheme: str = "nats") -> None:
        self._directory, self._extra, self._scheme = directory, extra, scheme
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process
        return self._process.pid

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, or start again on what it stored; returns when it answers."""
        self._directory.mkdir(parents=True, exist_ok=True)
        config = self._directory / "nats.conf"
        store = f'jetstream {{ store_dir: "{self._directory}/store", max_mem: 64MB, max_file: 2GB }}\n'
        config.write_text(f"listen: 127.0.0.1:{self.port}\n{store}{self._extra}")
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(["/usr/sbin/nats-server", "-c", str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self._directory / "log").read_text()
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as greeting:
                    if greeting.recv(5).startswith(b"INFO"):
                        return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("nats-server does not answer")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, by SIGKILL if asked to."""
        if self._process:
            os.kill(self._process.pid, number)
            self._process.wait(PATIENCE_S)
            self._process = None

    def hang(self, *, on: bool) -> None:
        """Stop it where it stands (SIGSTOP), its connections open; or let it go on."""
        assert self._process
        os.kill(self._process.pid, signal.SIGSTOP if on else signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self.hang(on=False)
            self.stop(signal.SIGKILL)


class Relay:
    """A way to the server that can be cut while everybody else still reaches it; its near end may be in a namespace."""

    def __init__(self, to: Server, namespace: str = "") -> None:
        self._to = to
        self._socket = namespaces.inside(namespace, _listen) if namespace else _listen()
        self._open: list[socket.socket] = []
        self._cut = False
        self.passed = 0  # bytes, both ways
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://127.0.0.1:{self._socket.getsockname()[1]}"

    def cut(self, *, on: bool) -> None:
        """End all connections and hang up on new ones; or let them through again."""
        self._cut = on
        if on:
            self._hang_up()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                far = socket.create_connection(("127.0.0.1", self._to.port))
                self._open += [near, far]
                if self._cut:
                    self._hang_up()
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                self.passed += len(data)
                other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)

    def _hang_up(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._hang_up()
        for end in self._open:
            end.close()


def _listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


class ControlPlane:
    """What a control plane does, by nats-py's own key-value interface; each call returns when the server has it."""

    def __init__(self, url: str, *, patience: float = PATIENCE_S, **options: Any) -> None:
        self._url, self._options, self._patience = url, options, patience
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._client = Client()
        self._revoked: set[str] = set()

    def make_buckets(self, name: str = BUCKET) -> None:
        """The bucket of peers and that of acknowledgements."""
        for bucket in (name, f"{name}-applied"):
            self._do(self._client.jetstream().create_key_value(KeyValueConfig(bucket, history=1)))

    def delete_buckets(self, name: str = BUCKET) -> None:
        """Take both away."""
        for bucket in (name, f"{name}-applied"):
            self._do(self._client.jetstream().delete_key_value(bucket))

    def put(self, key: PublicKey | str, record: Mapping[str, Any] | bytes) -> int:
        """Write one record and return its revision."""
        value = record if isinstance(record, bytes) else json.dumps(record).encode()

        async def write() -> int:
            return await (await self._bucket()).put(_text(key), value)

        return self._insist(write)

    def put_all(self, records: Iterable[tuple[PublicKey, Mapping[str, Any]]]) -> None:
        """Write many, several at a time."""

        async def all_of_them() -> None:
            bucket = await self._bucket()
            window: list[asyncio.Task[int]] = []
            for key, record in records:
                window.append(asyncio.ensure_future(bucket.put(_text(key), json.dumps(record).encode())))
                if len(window) >= 500:
                    await asyncio.gather(*window)
                    window.clear()
            await asyncio.gather(*window)

        self._do(all_of_them())

    def revoke(self, key: PublicKey, *, purge: bool = False) -> None:
        """Delete a key, or purge it."""

        async def gone() -> None:
            bucket = await self._bucket()
            await (bucket.purge(_text(key)) if purge else bucket.delete(_text(key)))

        self._insist(gone)
        self._revoked.add(_text(key))

    def forget_markers(self) -> None:
        """Remove what remains of deleted keys, at once, as nobody should."""

        async def forget() -> None:
            bucket, manager = await self._bucket(), self._client.jsm()
            for key in sorted(self._revoked):
                with contextlib.suppress(KeyNotFoundError):
                    try:
                        await bucket.get(key)
                    except KeyDeletedError:
                        await manager.purge_stream(f"KV_{BUCKET}", subject=f"$KV.{BUCKET}.{key}")

        self._insist(forget)
        self._revoked.clear()

    def revision(self) -> int:
        """The newest revision of the bucket."""

        async def last() -> int:
            return int((await self._client.jsm().stream_info(f"KV_{BUCKET}")).state.last_seq)

        return self._insist(last)

    def acknowledged(self) -> dict[str, dict[str, Any]]:
        """Node → what it says is in force there."""
        name = f"{BUCKET}-applied"

        async def all_of_them() -> dict[str, dict[str, Any]]:
            bucket = await self._client.jetstream().key_value(name)
            # Not bucket.keys(): that waits for ever for a watch that a restarting server has lost.
            subjects = (await self._client.jsm().stream_info(f"KV_{name}", subjects_filter=">")).state.subjects or {}
            nodes = [subject.removeprefix(f"$KV.{name}.") for subject in subjects]
            values = await asyncio.gather(*map(bucket.get, nodes))
            return {node: json.loads(entry.value or b"") for node, entry in zip(nodes, values, strict=True)}

        return self._insist(all_of_them)

    def _insist(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Do what may be done twice; a server that was just killed or started may not answer the first time."""

        async def again() -> _T:
            while True:
                try:
                    return await asyncio.wait_for(work(), 2.0)
                except (TimeoutError, NoRespondersError, ServiceUnavailableError, NoStreamResponseError):
                    await asyncio.sleep(0.05)

        return self._do(again())

    async def _bucket(self) -> KeyValue:
        return await self._client.jetstream().key_value(BUCKET)

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(self._patience)

    def __enter__(self) -> Self:
        async def quiet(_: Exception) -> None:
            """The servers of these tests go away on purpose."""

        self._thread.start()
        options = {"reconnect_time_wait": 0.05, "max_reconnect_attempts": -1, "error_cb": quiet, **self._options}
        self._do(self._client.connect(self._url, **options))
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()


def _text(key: PublicKey | str) -> str:
    return kv_key(key) if isinstance(key, PublicKey) else key
