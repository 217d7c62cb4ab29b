"""Scraping by TLS: only with a certificate that the node's authority of clients has signed."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from jetplane.errors import ConfigurationError, JetplaneError
from jetplane.lab import namespaces
from jetplane.metrics import tls
from jetplane.metrics.exporter import CONNECTIONS
from jetplane.metrics.process import Exporter, start
from jetplane.metrics.publish import Exposition, publish
from tests.netns.certificates import Authority

PORT = 9587
RELEASE = Exposition(b"jetplane_ready 1\n", b"jetplane_ready 1\n# EOF\n")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def files(authority: Authority) -> tls.Files:
    return tls.Files(*authority.issue("exporter", "subjectAltName=IP:127.0.0.1"), authority.ca)


@pytest.fixture(scope="module")
def prometheus(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("prometheus", "extendedKeyUsage=clientAuth")


@pytest.fixture(scope="module")
def exporter(namespace: str, files: tls.Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    directory = tmp_path_factory.mktemp("release") / "metrics"
    publish(directory, RELEASE)
    started = namespaces.inside(namespace, lambda: start(directory, "127.0.0.1", PORT, "nobody", files))
    yield started
    started.stop()


def trusting(authority: Authority, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """A client that expects the node's certificate, and shows its own if it has one."""
    context = ssl.create_default_context(cafile=authority.ca)
    if certificate:
        context.load_cert_chain(*certificate)
    return context


def connect(namespace: str) -> socket.socket:
    return namespaces.inside(namespace, lambda: socket.create_connection(("127.0.0.1", PORT), 20))


def scrape(namespace: str, context: ssl.SSLContext) -> bytes:
    def work() -> bytes:
        connection = http.client.HTTPSConnection("127.0.0.1", PORT, timeout=20, context=context)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read()
        finally:
            connection.close()

    return namespaces.inside(namespace, work)


def serial(namespace: str, context: ssl.SSLContext) -> str:
    """Of the certificate that is served."""

    def work() -> str:
        with (
            socket.create_connection(("127.0.0.1", PORT), 20) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
        ):
            assert wrapped.version() == "TLSv1.3"
            certificate = wrapped.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])

    return namespaces.inside(namespace, work)


def test_a_client_with_a_certificate_is_served(
    namespace: str, exporter: Exporter, authority: Authority, prometheus: tuple[Path, Path]
) -> None:
    assert scrape(namespace, trusting(authority, prometheus)) == RELEASE.text


def test_a_client_without_one_gets_nothing(namespace: str, exporter: Exporter, authority: Authority) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        scrape(namespace, trusting(authority))


def test_a_certificate_of_another_authority_gets_nothing(
    namespace: str, exporter: Exporter, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "theirs").issue("prometheus", "extendedKeyUsage=clientAuth")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        scrape(namespace, trusting(authority, stranger))


def test_a_servers_certificate_is_none_of_a_client(
    namespace: str, exporter: Exporter, authority: Authority, files: tls.Files
) -> None:
    """Signed by the right authority, but for another use."""
    server_only = authority.issue("site", "extendedKeyUsage=serverAuth")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        scrape(namespace, trusting(authority, server_only))


def test_plain_http_and_older_tls_get_nothing(
    namespace: str, exporter: Exporter, authority: Authority, prometheus: tuple[Path, Path]
) -> None:
    with connect(namespace) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert b"jetplane_ready" not in client.recv(4096)
    older = trusting(authority, prometheus)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        scrape(namespace, older)


def test_connections_without_a_handshake_are_bounded_too(
    namespace: str, exporter: Exporter, authority: Authority, prometheus: tuple[Path, Path]
) -> None:
    with ExitStack() as clients:
        for _ in range(CONNECTIONS - 1):
            clients.enter_context(connect(namespace))
        assert scrape(namespace, trusting(authority, prometheus)) == RELEASE.text, "one place is left"


def test_a_renewed_certificate_is_noticed_and_a_broken_one_changes_nothing(
    namespace: str, authority: Authority, files: tls.Files, prometheus: tuple[Path, Path], tmp_path: Path
) -> None:
    """As the controller does it: ask, stop, start. Not while another exporter has the port: a namespace of its own."""
    own = replace(files, cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    shutil.copy(files.cert, own.cert)
    shutil.copy(files.key, own.key)
    client, directory = trusting(authority, prometheus), tmp_path / "metrics"
    publish(directory, RELEASE)
    name = f"jet{os.getpid()}-tlsr"
    namespaces.create(name)
    try:
        running = namespaces.inside(name, lambda: start(directory, "127.0.0.1", PORT, "nobody", own))
        try:
            before = serial(name, client)
            assert not running.is_outdated()
            own.cert.write_text("no certificate")
            with pytest.raises(JetplaneError, match=r"holds no certificate in PEM; the old certificate stays in use"):
                running.is_outdated()
            assert serial(name, client) == before
            cert, key = authority.issue("renewed", "subjectAltName=IP:127.0.0.1")
            shutil.copy(cert, own.cert)
            shutil.copy(key, own.key)
            assert running.is_outdated()
            running.stop()
            running = namespaces.inside(name, lambda: start(directory, "127.0.0.1", PORT, "nobody", own))
            assert serial(name, client) != before
            assert not running.is_outdated()
        finally:
            running.stop()
    finally:
        namespaces.remove(name)


def broken_files(good: tls.Files, directory: Path) -> Iterator[tuple[tls.Files, str]]:
    """Files, and what is said about them."""
    text, open_key, encrypted = (directory / name for name in ("text.pem", "open.key", "encrypted.key"))
    text.write_text("nothing in PEM")
    text.chmod(0o600)
    shutil.copy(good.key, open_key)
    open_key.chmod(0o644)
    command = ["openssl", "pkcs8", "-topk8", "-in", str(good.key), "-out", str(encrypted), "-passout", "pass:secret"]
    subprocess.run(command, check=True)
    encrypted.chmod(0o600)
    missing = directory / "missing.pem"
    yield replace(good, cert=missing), f"metrics.tls_cert_file: {missing}: cannot be read: No such file"
    yield replace(good, key=missing), f"metrics.tls_key_file: {missing}: cannot be read: No such file"
    yield replace(good, client_ca=missing), f"metrics.tls_client_ca_file: {missing}: cannot be read: No such file"
    yield replace(good, cert=text), f"metrics.tls_cert_file: {text}: holds no certificate in PEM"
    yield replace(good, key=text), f"metrics.tls_key_file: {text}: holds no key in PEM that can be used with"
    yield replace(good, key=encrypted), f"metrics.tls_key_file: {encrypted}: holds no key in PEM that can be used with"
    yield replace(good, client_ca=text), f"metrics.tls_client_ca_file: {text}: holds no certificate in PEM"
    yield replace(good, cert=good.client_ca), f"metrics.tls_key_file: {good.key}: does not belong to {good.client_ca}"
    yield replace(good, key=open_key), f"metrics.tls_key_file: {open_key}: is open to every user (mode 0644)"


def test_files_that_cannot_be_used_are_named(files: tls.Files, tmp_path: Path) -> None:
    for broken, message in broken_files(files, tmp_path):
        with pytest.raises(ConfigurationError) as caught:
            tls.server_context(broken)
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_start_with_such_files_is_refused_in_one_line(namespace: str, files: tls.Files, tmp_path: Path) -> None:
    missing = replace(files, key=tmp_path / "missing.key")
    with pytest.raises(JetplaneError, match=r"missing\.key: cannot be read: No such file") as caught:
        namespaces.inside(namespace, lambda: start(tmp_path / "metrics", "127.0.0.1", PORT + 1, "nobody", missing))
    assert "\n" not in str(caught.value)
