"""Headers that the real haproxy writes, decoded; and one of ours, which it reads."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import wait_until
from tests.unit.delegate.vectors import FULL, SMALL

from appswitch.delegate import metadata, proxyprotocol
from appswitch.delegate.errors import IncompleteError
from appswitch.delegate.proxyprotocol import Command, Header, Transport, Type

CONF = """
global
    log stdout format raw local0
defaults
    mode tcp
    timeout connect 10s
    timeout client 10s
    timeout server 10s
frontend in
    bind unix@{place}/in.sock {bind}
    bind 127.0.0.1:{port} {bind}
    {options}
    default_backend out
backend out
    server s unix@{place}/out.sock {server}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Haproxy:
    """Between a client on loopback and a listening Unix socket of the test's."""

    def __init__(self, place: Path, server: str, bind: str = "", options: str = "") -> None:
        self.port = free_port()
        self.backend = socket.socket(socket.AF_UNIX)
        self.backend.settimeout(20)
        self.backend.bind(str(place / "out.sock"))
        self.backend.listen()
        conf = place / "haproxy.cfg"
        conf.write_text(CONF.format(place=place, port=self.port, server=server, bind=bind, options=options))
        self.process = subprocess.Popen(["haproxy", "-db", "-f", conf])
        wait_until((place / "in.sock").exists, "haproxy")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def header(self) -> tuple[Header, bytes]:
        """What comes first on the next connection, and what is already there after it."""
        accepted, _ = self.backend.accept()
        with accepted:
            accepted.settimeout(20)
            data = b""
            while True:
                data += accepted.recv(4096)
                try:
                    header, size = proxyprotocol.decode_prefix(data)
                except IncompleteError:
                    continue
                return header, data[size:]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.backend.close()


@contextmanager
def haproxy(place: Path, server: str, bind: str = "", options: str = "") -> Iterator[Haproxy]:
    one = Haproxy(place, server, bind, options)
    try:
        yield one
    finally:
        one.close()


pytestmark = pytest.mark.root  # who installs haproxy: make setup


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_plain(tmp_path: Path, version: str) -> None:
    with haproxy(tmp_path, version) as one, one.connect() as client:
        client.sendall(b"x")
        header, _ = one.header()
        assert header.command is Command.PROXY
        assert header.transport is Transport.STREAM
        assert [str(header.source), str(header.destination)] == [
            f"127.0.0.1:{end[1]}" for end in (client.getsockname(), client.getpeername())
        ]


def test_options(tmp_path: Path) -> None:
    options = "unique-id-format id-%[src_port]"
    server = "send-proxy-v2 proxy-v2-options crc32c,unique-id"
    with haproxy(tmp_path, server, options=options) as one, one.connect() as client:
        header, _ = one.header()
        assert header.value(Type.CRC32C) is not None  # and it was right
        assert header.value(Type.UNIQUE_ID) == f"id-{client.getsockname()[1]}".encode()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("certificate")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a client", "-days", "2"]
    subprocess.run([*command, "-keyout", place / "key", "-out", place / "cert"], check=True, capture_output=True)
    both = place / "both.pem"
    both.write_text((place / "cert").read_text() + (place / "key").read_text())
    return both


def test_tls(tmp_path: Path, certificate: Path) -> None:
    server = "send-proxy-v2-ssl-cn proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c"
    bind = f"ssl crt {certificate} ca-file {certificate} verify optional alpn h2"
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2"])
    with (
        haproxy(tmp_path, server, bind) as one,
        one.connect() as sock,
        context.wrap_socket(sock, server_hostname="web.test") as client,
    ):
        client.sendall(b"x")
        header, _ = one.header()
        known = proxyprotocol.decode_ssl(header.value(Type.SSL) or b"")
        assert header.value(Type.AUTHORITY) == b"web.test"
        assert header.value(Type.ALPN) == b"h2"
        assert (known.client & 3, known.verify, known.common_name) == (3, 0, "a client")
        assert (known.version, known.signature, known.key) == (client.version(), "RSA-SHA256", "RSA2048")
        assert known.cipher == (client.cipher() or ("",))[0]


def test_a_health_check(tmp_path: Path) -> None:
    with haproxy(tmp_path, "send-proxy-v2 check inter 100ms") as one:
        assert one.header() == (Header(Command.LOCAL), b"")


@pytest.mark.parametrize("known", [SMALL, FULL], ids=["smallest", "everything"])
def test_it_reads_ours(tmp_path: Path, known: metadata.Metadata) -> None:
    """And passes on what it has read of it."""
    server = "send-proxy-v2 proxy-v2-options authority"
    with haproxy(tmp_path, server, "accept-proxy") as one, one.connect() as client:
        client.sendall(metadata.encode(known) + b"payload")
        header, _ = one.header()
        assert (header.source, header.destination) == (known.source, known.destination)
        assert header.value(Type.AUTHORITY) == (known.attributes.get("http.host", "").encode() or None)
