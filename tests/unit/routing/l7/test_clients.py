"""What real clients say before they have heard anything."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appswitch.routing.l7 import Peeked, as_attributes, peek

PATIENCE = 30  # seconds for a program to start and connect


@contextlib.contextmanager
def running(command: list[str], home: Path) -> Iterator[None]:
    """Without anything of the user's, and gone afterwards."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as client:
        try:
            yield
        finally:
            client.kill()


def heard(command: str, home: Path) -> Peeked:
    """What is known of the first connection of a program, peeked as the switch does: all the bytes, again and again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        port = str(server.getsockname()[1])
        with running([word.replace("PORT", port) for word in command.split()], home):
            connection, _ = server.accept()
            with connection:
                connection.settimeout(PATIENCE)
                return _answer(connection)


def _answer(connection: socket.socket) -> Peeked:
    data = b""
    while (found := peek(data, final=False)) is None:
        more = connection.recv(100)
        assert more, f"the client ended after {data!r}"
        data += more
    return found


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "curl -s http://127.0.0.1:PORT/a?b=c -H X-Canary:1",
            {
                "protocol": "http",
                "http.method": "GET",
                "http.path": "/a",
                "http.query": "b=c",
                "http.version": "1.1",
                "http.host": "127.0.0.1",
                "http.header.x-canary": "1",
            },
        ),
        (
            "curl -s -p -x http://127.0.0.1:PORT http://web.example:81/a",
            {
                "protocol": "http",
                "http.method": "CONNECT",
                "http.authority": "web.example:81",
                "http.host": "web.example",
            },
        ),
        (
            "curl -s -x http://127.0.0.1:PORT http://web.example:81/a",
            {"protocol": "http", "http.method": "GET", "http.authority": "web.example:81", "http.path": "/a"},
        ),
        (
            "curl -s --http2 http://127.0.0.1:PORT/",
            {"protocol": "http", "http.version": "1.1", "http.header.upgrade": "h2c"},
        ),
        (
            "curl -s --http2-prior-knowledge http://127.0.0.1:PORT/a?b=c -X DELETE",
            {"protocol": "http2", "http.method": "DELETE", "http.path": "/a", "http.query": "b=c", "http.version": "2"},
        ),
        (
            "curl -s --http2-prior-knowledge http://127.0.0.1:PORT/shop.Cart/Add -d x -H Content-Type:application/grpc",
            {"protocol": "grpc", "grpc.service": "shop.Cart", "grpc.method": "Add"},
        ),
        (
            "curl -s --haproxy-protocol http://127.0.0.1:PORT/a",
            {"protocol": "http", "proxy.version": "1", "http.path": "/a"},
        ),
        (
            "curl -s -u joe:secret mqtt://127.0.0.1:PORT/topic",
            {"protocol": "mqtt", "mqtt.user": "joe"},
        ),
        (
            "openssl s_client -connect 127.0.0.1:PORT -servername Web.Example -alpn h2,http/1.1",
            {"protocol": "tls", "tls.sni": "web.example", "tls.alpn": "h2,http/1.1", "tls.version": "1.3"},
        ),
        (
            "openssl s_client -connect 127.0.0.1:PORT -noservername -tls1_2",
            {"protocol": "tls", "tls.version": "1.2"},
        ),
        (
            "openssl s_client -connect 127.0.0.1:PORT -servername web.example -max_send_frag 512 -split_send_frag 512",
            {"protocol": "tls", "tls.sni": "web.example"},
        ),
        ("redis-cli -h 127.0.0.1 -p PORT FLUSHALL", {"protocol": "redis", "redis.command": "FLUSHALL"}),
        ("redis-cli -h 127.0.0.1 -p PORT set a b", {"protocol": "redis", "redis.command": "SET", "redis.key": "a"}),
        (
            "redis-cli -h 127.0.0.1 -p PORT --user joe --pass secret get a",
            {"protocol": "redis", "redis.command": "AUTH", "redis.user": "joe"},
        ),
        (
            "psql -w -d postgresql://joe@127.0.0.1:PORT/shop?sslmode=disable&gssencmode=disable",
            {
                "protocol": "postgresql",
                "postgresql.user": "joe",
                "postgresql.database": "shop",
                "postgresql.application_name": "psql",
            },
        ),
        (
            "psql -w -d postgresql://joe@127.0.0.1:PORT/shop?sslmode=require&gssencmode=disable",
            {"protocol": "postgresql", "postgresql.ssl": "requested"},
        ),
    ],
)
def test_programs(command: str, expected: dict[str, str], tmp_path: Path) -> None:
    found = as_attributes(heard(command, tmp_path))
    assert {name: found.get(name) for name in expected} == expected
    assert "secret" not in str(found)


def test_ssh_says_which_software_it_is(tmp_path: Path) -> None:
    found = heard("ssh -F none -o BatchMode=yes -p PORT joe@127.0.0.1", tmp_path)
    assert found.attributes["ssh.software"].startswith("OpenSSH_")
