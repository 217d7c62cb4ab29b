"""One connection to NATS, from its beginning to its end. The only module that imports nats-py.

Consumers are made by JetStream's own interface (`$JS.API`), not by nats-py's helpers: ours end at the first sign that
something was missed, and the next session begins where this one knew everything. Nothing is acknowledged to the server
message by message; JetStream's consumer sequence shows a gap, its idle heartbeats show silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from jetplane.config import Nats
from jetplane.sources.access import node_name, tls_context
from jetplane.sources.replica import Entry
from jetplane.sources.sink import Lost, Position, Sink

CONNECT_S = 5.0
CLOSE_S = 1.0  # asyncio may wait for ever for the end of a TLS connection that never began
REQUEST_S = 10.0
CREATE_S = 120.0  # a server looks for the newest of a million keys while it makes a consumer
HEARTBEAT_S = 5.0
SILENCE_S = 3 * HEARTBEAT_S
MARKERS_LAST_S = 600.0  # markers of deleted keys stay longer than this (`nats kv compact` spares 30 minutes)
ACKNOWLEDGE_S = 0.25  # at most so often
ROOM_S = 0.02  # how often a full queue is looked at
_GONE = frozenset({"DEL", "PURGE"})  # values of the header KV-Operation


class Session:
    """Runs until the connection, or the certainty that nothing was missed, is lost."""

    def __init__(self, settings: Nats, position: Position, sink: Sink) -> None:
        self._settings, self._position, self._sink = settings, position, sink
        self._stream = f"KV_{settings.bucket}"
        self._client = Client()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._proven = asyncio.Event()  # everything up to the position's revision is known for certain
        self._heard: dict[int, float] = {}  # by subscription: monotonic, when its consumer last gave a sign
        self._denied = False

    async def run(self) -> None:
        """Raises Lost, always."""
        try:
            await self._connect()
            compare_after = await self._resume()
            work = (self._compare(compare_after), self._acknowledge(), self._listen(), self._lost)
            tasks = [asyncio.ensure_future(item) for item in work]
            self._sink.connected()
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except nats.errors.NoRespondersError:
            raise Lost("the servers have no JetStream here") from None
        except (TimeoutError, nats.errors.Error, OSError) as error:
            raise Lost("not permitted to these credentials" if self._denied else _reason(error)) from None
        finally:
            self._lost.cancel()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._client.close(), CLOSE_S)

    async def _connect(self) -> None:
        """Try every server once, in a random order."""
        reasons = []
        for server in random.sample(self._settings.servers, len(self._settings.servers)):
            try:
                self._client = await self._connect_to(server)
                return
            except (TimeoutError, Lost, nats.errors.Error, OSError, ValueError) as error:
                reasons.append(_reason(error))
        raise Lost(", ".join(dict.fromkeys(reasons)))

    async def _connect_to(self, server: str) -> Client:
        client, secure = Client(), server.startswith("tls://")
        causes: list[Exception] = []

        async def closed() -> None:
            if client is self._client:
                self._lose("the connection has ended")

        async def failed(error: Exception) -> None:
            causes.append(error)
            self._denied = self._denied or "permissions violation" in str(error).lower()
            if isinstance(error, nats.errors.SlowConsumerError):
                self._lose("a message was missed")

        connection = client.connect(
            servers=[server],
            name=node_name(self._settings),
            tls=tls_context(self._settings) if secure else None,
            user_credentials=self._settings.credentials_file or None,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=int(CONNECT_S),
            ping_interval=int(SILENCE_S),
            closed_cb=closed,
            error_cb=failed,
        )
        try:
            await asyncio.wait_for(connection, 2 * CONNECT_S)
        except BaseException as error:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(client.close(), CLOSE_S)  # or its socket stays open
            if isinstance(error, nats.errors.NoServersError) and causes:
                raise causes[0] from None
            raise
        # nats-py asks for TLS only when the server's greeting, which is not protected, says that it is required.
        if secure and not client._server_info.get("tls_required"):
            await client.close()
            raise Lost("the server offers no TLS")
        return client

    async def _resume(self) -> float:
        """Watch from where the last session ended, or from now on. Returns when to compare, in seconds from now."""
        info = await self._ask(f"STREAM.INFO.{self._stream}", {})
        position, last = self._position, int(info["state"]["last_seq"])
        delay = random.uniform(0, self._settings.resync_spread)
        if not position.complete or position.stream != info["created"] or last < position.revision:
            delay = 0.0
            position.stream, position.revision, position.complete = info["created"], last, False
            self._sink.reset(position.stream)
        elif time.monotonic() - position.heard < MARKERS_LAST_S:
            self._proven.set()
        start = {"deliver_policy": "by_start_sequence", "opt_start_seq": position.revision + 1}
        await self._consume(start, self._watched)
        return delay

    async def _compare(self, delay: float) -> None:
        """Bring everything once, so that what vanished unseen is noticed."""
        await asyncio.sleep(delay)
        position, done = self._position, asyncio.Event()
        position.comparison += 1
        number = position.comparison
        self._sink.begin(number, position.revision)

        async def compared(entry: Entry, pending: int) -> None:
            self._sink.compared_entry(number, entry)
            if not pending:
                done.set()

        subscription, name, pending = await self._consume({"deliver_policy": "last_per_subject"}, compared)
        if pending:
            await done.wait()
        self._sink.end(number)
        position.complete = True
        self._proven.set()
        del self._heard[subscription._id]
        await subscription.unsubscribe()
        with contextlib.suppress(Lost):
            await self._ask(f"CONSUMER.DELETE.{self._stream}.{name}", {})

    async def _watched(self, entry: Entry, _: int) -> None:
        self._sink.watched_entry(entry)
        self._position.revision = entry.revision

    async def _consume(
        self, start: dict[str, Any], deliver: Callable[[Entry, int], Awaitable[None]]
    ) -> tuple[Subscription, str, int]:
        """Make a push consumer that lives as long as this session. Returns its subscription, name and backlog."""
        expected = 1
        prefix = f"$KV.{self._settings.bucket}."

        async def take(message: Msg) -> None:
            nonlocal expected
            self._heard[subscription._id] = self._position.heard = time.monotonic()
            headers = message.headers or {}
            if headers.get("Status") == "100":
                if int(headers.get("Nats-Last-Consumer", expected - 1)) != expected - 1:
                    self._lose("a message was missed")
                if reply := message.reply or headers.get("Nats-Consumer-Stalled"):
                    await self._client.publish(reply)  # flow control: ready for more
                return
            revision, sequence, pending = _numbers(message.reply)
            if sequence != expected:
                self._lose("a message was missed")
                return
            expected += 1
            gone = headers.get("KV-Operation") in _GONE
            key = message.subject.rpartition(prefix)[2]
            await deliver(Entry(key, revision, None if gone else message.data), pending)
            while not self._sink.has_room():  # so flow control holds the server back
                self._heard[subscription._id] = time.monotonic()
                await asyncio.sleep(ROOM_S)

        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=take)
        consumer = {
            "deliver_subject": inbox,
            "filter_subject": f"{prefix}>",
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
            **start,
        }
        question = {"stream_name": self._stream, "config": consumer}
        made = await self._ask(f"CONSUMER.CREATE.{self._stream}", question, timeout=CREATE_S)
        self._heard[subscription._id] = time.monotonic()
        return subscription, made["name"], int(made["num_pending"])

    async def _listen(self) -> None:
        """End the session when a consumer has been silent for longer than its heartbeats allow."""
        while time.monotonic() - min(self._heard.values()) < SILENCE_S:
            await asyncio.sleep(HEARTBEAT_S)
        raise Lost("the servers have fallen silent")

    async def _acknowledge(self) -> None:
        """Tell what is in force here; what cannot be told is told again later, in its newest form."""
        subject = f"$KV.{self._settings.bucket}-applied.{node_name(self._settings)}"
        await self._proven.wait()
        while True:
            payload = await self._sink.applied()
            try:
                problem = _refusal(json.loads((await self._client.request(subject, payload, timeout=REQUEST_S)).data))
            except nats.errors.NoRespondersError:
                problem = "there is no such bucket"
            except TimeoutError:
                problem = "not permitted to these credentials" if self._denied else "no answer"
            self._sink.acknowledged(problem)
            await asyncio.sleep(HEARTBEAT_S if problem else ACKNOWLEDGE_S)

    async def _ask(self, what: str, question: dict[str, Any], *, timeout: float = REQUEST_S) -> dict[str, Any]:
        answer = await self._client.request(f"$JS.API.{what}", json.dumps(question).encode(), timeout=timeout)
        content: dict[str, Any] = json.loads(answer.data)
        if content.get("error", {}).get("code") == 404:
            raise Lost("there is no such bucket")
        if problem := _refusal(content):
            raise Lost(problem)
        return content

    def _lose(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_exception(Lost(reason))


def _numbers(reply: str) -> tuple[int, int, int]:
    """Stream sequence, consumer sequence and what is pending, from the reply subject of a delivered message.

    `$JS.ACK.STREAM.CONSUMER.DELIVERED.SSEQ.CSEQ.TIME.PENDING`, or with a domain and an account before STREAM and a
    token at the end (ADR-15).
    """
    parts = reply.split(".")
    at = 5 if len(parts) == 9 else 7
    return int(parts[at]), int(parts[at + 1]), int(parts[at + 3])


def _refusal(answer: dict[str, Any]) -> str:
    """What JetStream says against a request, "" for nothing: the code of its error list, which names no subject."""
    error = answer.get("error")
    return f"JetStream refuses with error {error.get('err_code', error.get('code'))}" if error else ""


def _reason(error: BaseException) -> str:
    """Say an error of the connection without the text of anything that a peer's record could be in."""
    match error:
        case Lost():
            return str(error)
        case ssl.SSLCertVerificationError():
            return f"the server's certificate is refused: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS fails: {error.reason}"
        case socket.gaierror():
            return "the server's name cannot be resolved"
        case OSError(errno=int(code)):
            return os.strerror(code)
        case asyncio.TimeoutError() | TimeoutError():
            return "no answer"
        case nats.errors.AuthorizationError():
            return "the credentials are refused"
        case nats.errors.Error() if "authorization" in str(error).lower() or "authentication" in str(error).lower():
            return "the credentials are refused"
        case _:
            return type(error).__name__
