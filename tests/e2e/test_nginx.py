"""nginx with several worker processes, as a server and as a reverse proxy; curl as its client."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import signal
from pathlib import Path

import pytest
from e2e.servers import Nginx, certificate
from e2e.world import World, url
from harness import marks, wait_until

MANY_CURLS = 'for i in $(seq %d); do curl -sS --max-time 10 "$0" || exit; done'
PROXY_TO = "server { listen 80; location / { proxy_pass http://%s; } }"


@pytest.mark.also("tcp", "rootless")
def test_curl_reads_a_page_and_both_see_virtual_addresses(world: World, place: Path) -> None:
    nginx = Nginx(place, listen="8080")
    server = world.start(*nginx.argv, listening=8080)
    client = world.addresses.v4()
    got = world.run("curl", "-sS", "--max-time", "10", url(server.ip, 8080), ip=client)
    assert f"to {client} on {server.ip}:8080" in got.stdout
    wait_until(lambda: nginx.access, "a line in the access log")
    assert nginx.access[0][:2] == [client, server.ip]


@pytest.mark.parametrize("reuseport", ["", " reuseport"], ids=["shared", "reuseport"])
def test_workers_share_connections(world: World, place: Path, reuseport: str) -> None:
    nginx = Nginx(place, listen=f"80{reuseport} backlog=64")
    server = world.start(*nginx.argv, listening=80)
    client = world.addresses.v4()
    got = world.run("sh", "-c", MANY_CURLS % 40, url(server.ip), ip=client)
    greetings = got.stdout.splitlines()
    assert len(greetings) == 40
    assert all(f"to {client} on {server.ip}:80" in line for line in greetings)
    served = {line.split()[2] for line in greetings}
    if reuseport:
        assert len(served) == 3, "each worker listens on a socket of its own, and gets its share"


@pytest.mark.also("tcp")
def test_options_of_a_listening_socket(world: World, place: Path) -> None:
    """Everything that nginx can set on a listener and read from a connection, and a client that sends with its SYN."""
    listen = "80 deferred fastopen=16 so_keepalive=30m::10 rcvbuf=64k sndbuf=64k backlog=128"
    http = (
        f'server {{ listen {listen}; tcp_nopush on; location / {{ return 200 "$tcpinfo_rtt $tcpinfo_snd_cwnd\\n"; }} }}'
    )
    server = world.start(*Nginx(place, http=http).argv, listening=80)
    got = world.run("curl", "-sS", "--max-time", "10", "--tcp-fastopen", "--keepalive-time", "5", url(server.ip))
    assert all(int(number) > 0 for number in got.stdout.split()), got.stdout
    assert len(got.stdout.split()) == 2
    assert "[emerg]" not in (place / "error.log").read_text()


def test_workers_that_gave_up_root(world: World, place: Path) -> None:
    nginx = Nginx(place, user="www-data")
    (place / "page").write_text("readable by all\n")
    server = world.start(*nginx.argv, listening=80)
    urls = [url(server.ip, path="/files/page"), url(server.ip)]
    got = world.run("setpriv", "--reuid", "nobody", "--clear-groups", "curl", "-sS", "--max-time", "10", *urls)
    assert got.stdout.startswith("readable by all\nhello from")


def test_many_connections_at_once(world: World, place: Path) -> None:
    nginx = Nginx(place)
    server = world.start(*nginx.argv, listening=80)
    # One request each on 120 connections that are open together: no keep-alive, 40 at a time.
    got = world.run("hey", "-n", "400", "-c", "40", "-disable-keepalive", url(server.ip))
    assert "[200]\t400 responses" in got.stdout, got.stdout
    assert "Error" not in got.stdout


def test_reload_keeps_serving_and_replaces_workers(world: World, place: Path) -> None:
    nginx = Nginx(place)
    server = world.start(*nginx.argv, listening=80)
    client = world.addresses.v4()

    def worker() -> str:
        return world.run("curl", "-sS", "--max-time", "5", url(server.ip), ip=client).stdout.split()[2]

    before = worker()
    server.send(signal.SIGHUP)
    wait_until(lambda: not Path(f"/proc/{before}").exists(), f"the old worker {before} to end")
    assert worker() != before


def test_binary_upgrade_inherits_the_listener(world: World, place: Path) -> None:
    """USR2: the master executes nginx anew, with the listening descriptor and its number in the environment."""
    nginx = Nginx(place, workers=1, daemon="on")  # one in the foreground ignores USR2
    server = world.start("sh", "-c", '"$@"; exec sleep infinity', "sh", *nginx.argv, listening=80)
    # USR2 is ignored as long as the process that became a daemon's parent is there.
    wait_until(lambda: Path(f"/proc/{server.pid}/comm").read_text() == "sleep\n", "nginx to be a daemon")
    running = [wait_until(nginx.pid, "a master")]
    try:
        # A signal before the master blocks them is acted upon after the next one only. Workers come after that.
        wait_until(lambda: marks.children(running[0]), "the master to block signals, and start its worker")
        os.kill(running[0], signal.SIGUSR2)
        wait_until((place / "nginx.pid.oldbin").exists, "the old master to step aside")
        running += [wait_until(nginx.pid, "a new master")]
        os.kill(running[0], signal.SIGQUIT)
        wait_until(lambda: not Path(f"/proc/{running[0]}").exists(), "the old master to end")
        got = world.run("curl", "-sS", "--max-time", "10", url(server.ip))
        assert "hello from" in got.stdout
    finally:
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def test_a_large_file_arrives_whole(world: World, place: Path) -> None:
    nginx = Nginx(place)
    content = os.urandom(1 << 20) * 48
    (place / "large").write_bytes(content)
    server = world.start(*nginx.argv, listening=80)
    got = world.run("sh", "-c", 'curl -sS --max-time 15 "$0" | sha256sum', url(server.ip, path="/files/large"))
    assert got.stdout.split()[0] == hashlib.sha256(content).hexdigest()


def test_two_ports_and_a_specific_address(world: World, place: Path) -> None:
    ip = world.addresses.v4()
    http = f"""
    server {{ listen 80; location / {{ return 200 "any\\n"; }} }}
    server {{ listen {ip}:8080; location / {{ return 200 "specific\\n"; }} }}
    server {{ listen 127.0.0.1:8081; location / {{ return 200 "own\\n"; }} }}
    """
    world.start(*Nginx(place, http=http).argv, ip=ip, listening=[80, 8080, 8081])
    got = world.run("curl", "-sS", "--max-time", "10", url(ip), url(ip, 8080))
    assert got.stdout == "any\nspecific\n"
    refused = world.run("curl", "-sS", "--max-time", "10", url(ip, 8081), status=7)
    assert "Connection refused" in refused.stderr or "Couldn't connect" in refused.stderr


def test_refused_where_nobody_listens(world: World, place: Path) -> None:
    server = world.start(*Nginx(place).argv, listening=80)
    got = world.run("curl", "-sS", "--max-time", "10", "-w", "%{errormsg}", url(server.ip, 81), status=7)
    assert "connect" in got.stderr.lower()


def test_port_taken_by_the_program_itself(world: World, place: Path) -> None:
    """Two masters in one app: the second gets EADDRINUSE, five times, and gives up."""
    first, second = Nginx(place / "1"), Nginx(place / "2")
    script = f"""
    {shlex.join(first.argv)} &
    until curl -s -o /dev/null http://127.0.0.1/; do sleep 0.05; done
    {shlex.join(second.argv)}; echo "status $?"
    curl -sS -o /dev/null http://127.0.0.1/ && echo "the first still serves"
    kill %1; wait
    """
    got = world.run("bash", "-c", script)
    assert got.stdout == "status 1\nthe first still serves\n"
    assert "98: Address already in use" in (place / "2" / "error.log").read_text()


@pytest.mark.parametrize("keepalive", [False, True], ids=["per-request", "keepalive"])
def test_reverse_proxy_between_two_apps(world: World, place: Path, keepalive: bool) -> None:
    """nginx adds a connection to its epoll set before it connects it."""
    backends = [Nginx(place / name, workers=1) for name in ("a", "b")]
    apps = [world.start(*backend.argv, listening=80) for backend in backends]
    http = f"""
    upstream both {{ {" ".join(f"server {app.ip}:80;" for app in apps)} {"keepalive 4;" if keepalive else ""} }}
    server {{
        listen 80;
        location / {{
            proxy_pass http://both;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header User-Agent "for-$remote_addr";
        }}
    }}
    """
    front = Nginx(place / "front", http=http, workers=2)
    proxy = world.start(*front.argv, listening=80)
    client = world.addresses.v4()
    got = world.run("sh", "-c", MANY_CURLS % 20, url(proxy.ip), ip=client)
    assert got.stdout.count(f"to {proxy.ip} on ") == 20, "the backends see the proxy"
    for backend in backends:
        wait_until(lambda backend=backend: len(backend.access) >= 5, "its share of the requests")
        assert {line[0] for line in backend.access} == {proxy.ip}
        assert {line[-1] for line in backend.access} == {f"for-{client}"}, "the proxy saw the client"
    loaded = world.run("hey", "-n", "300", "-c", "20", url(proxy.ip))
    assert "[200]\t300 responses" in loaded.stdout, loaded.stdout


def test_proxy_passes_large_bodies_both_ways(world: World, place: Path) -> None:
    content = os.urandom(1 << 20) * 8
    (place / "body").write_bytes(content)
    backend = Nginx(
        place / "back",
        http="""
        server {
            listen 80;
            location /echo { proxy_pass http://127.0.0.1:81/; proxy_set_header X-Body $request_body_file; }
            location / { root %s; dav_methods PUT; create_full_put_path on; client_body_in_file_only clean; }
        }
        server { listen 127.0.0.1:81; location / { return 200 "echo\\n"; } }
        """
        % (place / "store"),
    )
    back = world.start(*backend.argv, listening=80)
    front = Nginx(place / "front", http=PROXY_TO % back.ip)
    proxy = world.start(*front.argv, listening=80)
    target = url(proxy.ip, path="/body")
    world.run("curl", "-sS", "-f", "--max-time", "15", "-T", place / "body", target)
    got = world.run("sh", "-c", 'curl -sS --max-time 15 "$0" | sha256sum', target)
    assert got.stdout.split()[0] == hashlib.sha256(content).hexdigest()
    assert (place / "store" / "body").read_bytes() == content


def test_proxy_answers_502_for_a_dead_backend_and_recovers(world: World, place: Path) -> None:
    ip = world.hold()
    nginx = Nginx(place / "back", workers=1)
    back = world.start(*nginx.argv, ip=ip, listening=80)
    front = Nginx(place / "front", http=PROXY_TO % ip)
    proxy = world.start(*front.argv, listening=80)
    status = ("curl", "-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", url(proxy.ip))
    assert world.run(*status).stdout == "200"
    assert back.stop(signal.SIGQUIT) == 0
    assert world.run(*status).stdout in {"502", "504"}
    world.start(*nginx.argv, ip=ip, listening=80)
    assert world.run(*status).stdout == "200"


def test_tls(world: World, place: Path) -> None:
    cert, key = certificate(place, "server")
    http = f"""
    server {{
        listen 443 ssl http2;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        location / {{ return 200 "$server_protocol\\n"; }}
    }}
    """
    server = world.start(*Nginx(place, http=http).argv, listening=443)
    got = world.run("curl", "-sS", "--max-time", "10", "--http2", "-k", f"https://{server.ip}/")
    assert got.stdout == "HTTP/2.0\n"


def test_ipv6(world: World, place: Path) -> None:
    server = world.start(*Nginx(place, listen="[::]:80").argv, ip=world.addresses.v6(), listening=80)
    client = world.addresses.v6()
    got = world.run("curl", "-sS", "-6", "-g", "--max-time", "10", url(server.ip), ip=client)
    assert f"to {client} on {server.ip}:80" in got.stdout


def test_dual_stack_socket_serves_ipv4_as_mapped(world: World, place: Path) -> None:
    v4, v6 = world.addresses.v4(), world.addresses.v6()
    world.start(*Nginx(place, listen="[::]:80 ipv6only=off").argv, ip=f"{v4},{v6}", listening=80)
    c4, c6 = world.addresses.v4(), world.addresses.v6()
    over4 = world.run("curl", "-sS", "-4", "--max-time", "10", url(v4), ip=c4)
    over6 = world.run("curl", "-sS", "-6", "-g", "--max-time", "10", url(v6), ip=c6)
    assert f"to ::ffff:{c4} on ::ffff:{v4}:80" in over4.stdout
    assert f"to {c6} on {v6}:80" in over6.stdout
