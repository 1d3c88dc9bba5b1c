"""Connections that leave: to servers on the host, and beyond it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest
from e2e.node import NOBODY, NODE, NODE6, OUTSIDE, OUTSIDE6, Plain
from e2e.servers import Nginx, redis
from e2e.world import PROGRAMS, PYTHON, Switched, hang_up, say, url, wait_output
from harness import wait_until

CURL = ("curl", "-sS", "-g", "--max-time", "10")


@pytest.mark.parametrize("address", ["192.0.2.2", "2001:db8::2"], ids=["ipv4", "ipv6"])
def test_a_server_outside(apps: Switched, outside: Plain, place: Path, address: str) -> None:
    nginx = Nginx(place, http='server { listen 80; listen [::]:80; location / { return 200 "to $remote_addr\\n"; } }')
    outside.start(*nginx.argv, listening=80)
    got = apps.run(*CURL, "-w", "%{remote_ip}:%{remote_port}", url(address))
    assert got.stdout == f"to {NODE6 if ':' in address else NODE}\n{address}:80"


@pytest.mark.parametrize("ip", ["", "10.9.9.9"], ids=["no-address", "own-address"])
def test_a_server_on_the_host(apps: Switched, host: Plain, place: Path, ip: str) -> None:
    host.start(*Nginx(place).argv, listening=80)
    assert "hello from" in apps.run(*CURL, url(NODE), ip=ip).stdout


def test_the_hosts_loopback_is_not_the_apps(apps: Switched, host: Plain, place: Path) -> None:
    host.start(*Nginx(place).argv, listening=80)
    apps.run(*CURL, url("127.0.0.1"), status=7)


@pytest.mark.parametrize(
    "target", [(OUTSIDE, 81), (NODE, 81), (NOBODY, 80), ("198.51.100.1", 80), (OUTSIDE6, 81)], ids=str
)
def test_errors_are_those_of_the_host(apps: Switched, host: Plain, target: tuple[str, int]) -> None:
    script = """if 1:
        import errno, socket, sys
        try:
            socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).close()
        except OSError as error:
            print(errno.errorcode[error.errno])
    """
    words = (PYTHON, "-c", script, target[0], str(target[1]))
    bare = host.run(*words).stdout
    assert bare.strip() in {"ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH"}
    assert apps.run(*words).stdout == bare


def test_a_time_out_of_the_programs_own(apps: Switched) -> None:
    got = apps.run("curl", "-sS", "--connect-timeout", "0.5", url(NOBODY), status=28)
    assert "imed out" in got.stderr or "imeout" in got.stderr


def test_a_large_download_and_upload(apps: Switched, outside: Plain, place: Path) -> None:
    content = os.urandom(1 << 20) * 24
    (place / "data").write_bytes(content)
    http = f"server {{ listen 80; root {place}; location /up/ {{ dav_methods PUT; create_full_put_path on; }} }}"
    outside.start(*Nginx(place, http=http).argv, listening=80)
    got = apps.run("sh", "-c", 'curl -sS --max-time 15 "$0" | sha256sum', url(OUTSIDE, path="/data"))
    assert got.stdout.split()[0] == hashlib.sha256(content).hexdigest()
    apps.run(*CURL, "-f", "-T", place / "data", url(OUTSIDE, path="/up/data"))
    assert (place / "up" / "data").read_bytes() == content


def test_a_proxy_app_in_front_of_a_server_outside(apps: Switched, outside: Plain, place: Path) -> None:
    """nginx registers the connection with its epoll set before it connects; then another file comes behind it."""
    outside.start(*Nginx(place / "back").argv, listening=80)
    http = f"""
    upstream u {{ server {OUTSIDE}:80; keepalive 4; }}
    server {{
        listen 80;
        location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
    """
    proxy = apps.start(*Nginx(place / "front", http=http).argv, listening=80)
    loaded = apps.run("hey", "-n", "300", "-c", "20", url(proxy.ip))
    assert "[200]\t300 responses" in loaded.stdout, loaded.stdout


def test_many_kinds_of_clients(apps: Switched, outside: Plain, place: Path) -> None:
    nginx = Nginx(place)
    outside.start(*nginx.argv, listening=80)
    outside.start("redis-server", "--bind", "*", "--protected-mode", "no", "--save", "", "--dir", place, listening=6379)
    got = apps.run("redis-benchmark", "-h", OUTSIDE, "-q", "-n", "2000", "-c", "50", "-t", "set,get")
    assert len(re.findall("requests per second", got.stdout)) == 2, got.stdout
    node = apps.run("node", PROGRAMS / "web.js", "load", url(OUTSIDE), "100", "10")
    assert '"fresh":{"done":100' in node.stdout
    loaded = apps.run("wrk", "-t", "2", "-c", "20", "-d", "1s", url(OUTSIDE))
    assert "Socket errors" not in loaded.stdout, loaded.stdout


def test_an_asyncio_client(apps: Switched, outside: Plain) -> None:
    outside.start(PYTHON, PROGRAMS / "servers.py", "asyncio", "9000", listening=9000)
    script = """if 1:
        import asyncio, sys
        async def once(n):
            reader, writer = await asyncio.open_connection(sys.argv[1], 9000)
            peer = writer.get_extra_info("peername")
            writer.write(b"%d\\n" % n)
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return peer, line.split()[2] == b"%d" % n
        async def main():
            print(set(await asyncio.gather(*(once(n) for n in range(50)))))
        asyncio.run(main())
    """
    assert apps.run(PYTHON, "-c", script, OUTSIDE).stdout == f"{{(('{OUTSIDE}', 9000), True)}}\n"


def test_one_program_in_both_directions_at_once(apps: Switched, outside: Plain, place: Path) -> None:
    """A server app that outside clients cannot reach, while its own connections go out."""
    server = redis(apps, place)
    outside.start(*Nginx(place / "n").argv, listening=80)
    assert apps.run("redis-cli", "-h", server.ip, "ping").stdout == "PONG\n"
    assert outside.run("redis-cli", "-h", NODE, "ping", status=1).stdout != "PONG\n"
    assert "hello" in apps.run(*CURL, url(OUTSIDE), ip=server.ip).stdout


def test_an_address_whose_app_ended_is_forgotten(apps: Switched, outside: Plain, place: Path) -> None:
    """An app hides whoever has the same address out there, as long as it lives."""
    outside.start(*Nginx(place).argv, listening=80)
    app = apps.start("socat", "TCP-LISTEN:80,fork", "EXEC:echo inside", ip=OUTSIDE, listening=80)
    assert apps.run("socat", "-t10", "-", f"TCP:{OUTSIDE}:80").stdout == "inside\n"
    app.stop()
    wait_until(lambda: not apps.daemon.get("apps"), "the app to be forgotten")
    assert "hello" in apps.run(*CURL, url(OUTSIDE)).stdout


# -- and in the other direction: --expose ---------------------------------------------------------------------------


def test_exposed_nginx_logs_the_real_clients(apps: Switched, host: Plain, outside: Plain, place: Path) -> None:
    nginx = Nginx(place)
    server = apps.start(*nginx.argv, options=["--expose", "80:8080"], listening=80)
    assert "to 127.0.0.1 on" in host.run(*CURL, url("127.0.0.1", 8080)).stdout
    assert f"to {NODE} on" in host.run(*CURL, url(NODE, 8080)).stdout
    assert f"to {OUTSIDE} on" in outside.run(*CURL, url(NODE, 8080)).stdout
    inside = apps.addresses.v4()
    assert f"to {inside} on" in apps.run(*CURL, url(server.ip), ip=inside).stdout
    assert [line[0] for line in nginx.access] == ["127.0.0.1", NODE, OUTSIDE, inside]
    server.stop()
    wait_until(lambda: not host.listens(8080), "the host's port to be free again")
    host.run(*CURL, url("127.0.0.1", 8080), status=7)


@pytest.mark.parametrize("reuseport", ["", " reuseport"], ids=["shared", "reuseport"])
def test_exposed_under_load_from_both_sides(apps: Switched, outside: Plain, place: Path, reuseport: str) -> None:
    server = apps.start(*Nginx(place, listen=f"80{reuseport}").argv, options=["--expose", "80:8081"], listening=80)
    inside = apps.start("hey", "-n", "400", "-c", "20", "-disable-keepalive", url(server.ip))
    loaded = outside.run("hey", "-n", "400", "-c", "20", "-disable-keepalive", url(NODE, 8081))
    assert "[200]\t400 responses" in loaded.stdout, loaded.stdout
    assert inside.wait() == 0
    assert "[200]\t400 responses" in inside.stdout, inside.stdout


@pytest.mark.parametrize(
    "kind", ["threading", "forking", "asyncio", "prefork", "select", "poll", "epoll", "edge", "oneshot", "exclusive"]
)
def test_exposed_to_every_way_of_waiting(apps: Switched, outside: Plain, kind: str) -> None:
    apps.start(PYTHON, PROGRAMS / "servers.py", kind, "9000", options=["--expose", "9000:9001"], listening=9000)
    got = outside.run(PYTHON, PROGRAMS / "lines.py", NODE, "9001", "60", "8")
    assert {line.split()[0] for line in got.stdout.splitlines()} == {OUTSIDE}


@pytest.mark.parametrize("where", [NODE, "0.0.0.0"])
def test_exposed_on_one_address_or_all(apps: Switched, host: Plain, place: Path, where: str) -> None:
    apps.start(*Nginx(place).argv, options=["--expose", f"80:{where}:8082"], listening=80)
    assert "hello" in host.run(*CURL, url(NODE, 8082)).stdout
    host.run(*CURL, url("127.0.0.1", 8082), status=0 if where == "0.0.0.0" else 7)


def test_a_host_port_that_is_taken(apps: Switched, host: Plain, place: Path) -> None:
    host.start(*Nginx(place, listen="8083").argv, listening=8083)
    refused = apps.run("socat", "TCP-LISTEN:80", "-", options=["--expose", "80:8083"], status=1)
    assert "Address already in use" in refused.stderr
    assert "hello" in host.run(*CURL, url(NODE, 8083)).stdout, "who had it keeps it"


@pytest.mark.parametrize("listen", ["80", "[::]:80 ipv6only=off", "[::]:80 ipv6only=on", "80;listen [::]:80"])
def test_exposed_to_both_families(apps: Switched, outside: Plain, place: Path, listen: str) -> None:
    """Without an address of the host, as far as the server itself speaks them; one socket for each family, or one."""
    ip = f"{apps.addresses.v4()},{apps.addresses.v6()}"
    apps.start(*Nginx(place, listen=listen).argv, ip=ip, options=["--expose", "80:8084"], listening=80)
    for address, speaks in ((NODE, "only=on" not in listen), (NODE6, "[::]" in listen)):
        got = outside.run(*CURL, url(address, 8084), status=0 if speaks else 7)
        assert ("hello" in got.stdout) == speaks, address


def test_exposed_before_anybody_listens(apps: Switched, host: Plain) -> None:
    """Until the app listens, the host's port refuses; afterwards it serves; then it refuses again."""
    script = 'read x; timeout 5 socat TCP-LISTEN:7000,reuseaddr EXEC:"echo served"; echo ended; read x'
    app = apps.start("bash", "-c", script, options=["--expose", "7000:7001"], stdin=subprocess.PIPE)
    host.run("socat", "-t10", "-", f"TCP:{NODE}:7001", status=1)
    say(app, "\n")
    apps.wait_listening(app, 7000)
    assert host.run("socat", "-t10", "-", f"TCP:{NODE}:7001").stdout == "served\n"
    wait_output(app, "ended")
    refused = ("socat", "-", f"TCP:{NODE}:7001")
    wait_until(lambda: host.run(*refused, status=None).returncode == 1, "the host's port to be closed")
    hang_up(app)
    app.wait()
