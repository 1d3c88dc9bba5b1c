"""Static Go programs: our own, whose runtime interrupts system calls with SIGURG, and Debian's."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.world import World, authority, url, wait_output
from harness import wait_until

pytestmark = pytest.mark.timeout(300)  # the first one waits for the compiler


@pytest.mark.also("tcp", "rootless")
def test_server_and_client(world: World, web: Path) -> None:
    server = world.start(web, "serve", ":8080", listening=8080)
    client = world.addresses.v4()
    hello = world.run("curl", "-sS", "--max-time", "10", url(server.ip, 8080), ip=client).stdout
    assert hello.startswith(f"hello {client}:")
    assert hello.endswith(f" on {server.ip}:8080")
    assert world.run(web, "load", url(server.ip, 8080), "32", "10").stdout == "done 320\n"
    assert world.run(web, "load", url(server.ip, 8080), "16", "50", "keep").stdout == "done 800\n"
    assert server.stop() == 0


@pytest.mark.also("tcp")
def test_preempted_goroutines_lose_no_connection(world: World, web: Path) -> None:
    server = world.start(web, "serve", ":8080", listening=8080)
    got = world.run(web, "preempt", url(server.ip, 8080), "16", "10")
    assert got.stdout == "done 160\n"


def test_refused_and_loopback(world: World, web: Path) -> None:
    server = world.start(web, "serve", "127.0.0.1:8080", listening=8080)
    got = world.run(web, "load", url(server.ip, 8080), "1", "1", status=1)
    assert f"dial tcp {server.ip}:8080: connect: connection refused" in got.stderr


def test_ipv6_any_serves_both_families(world: World, web: Path) -> None:
    """Go listens on one dual-stack socket and prints mapped peers as plain IPv4."""
    v4, v6 = world.addresses.v4(), world.addresses.v6()
    world.start(web, "serve", ":8080", ip=f"{v4},{v6}", listening=8080)
    for server, client in ((v4, world.addresses.v4()), (v6, world.addresses.v6())):
        hello = world.run("curl", "-sS", "-g", "--max-time", "10", url(server, 8080), ip=client).stdout
        assert hello.startswith(f"hello {authority(client, 0)[:-1]}")
        assert hello.endswith(f" on {authority(server, 8080)}")


def test_etcd(world: World, place: Path) -> None:
    ip = world.addresses.v4()
    server = world.start(
        "etcd", "--name", "one", "--data-dir", place / "data", "--unsafe-no-fsync",
        "--listen-client-urls", "http://0.0.0.0:2379", "--advertise-client-urls", f"http://{ip}:2379",
        "--listen-peer-urls", f"http://{ip}:2380", "--initial-advertise-peer-urls", f"http://{ip}:2380",
        "--initial-cluster", f"one=http://{ip}:2380", ip=ip, listening=[2379, 2380],
    )  # fmt: skip
    wait_output(server, "ready to serve client requests")
    ctl = ("etcdctl", "--endpoints", f"http://{ip}:2379")
    three = {"ETCDCTL_API": "3"}
    watch = world.start(*ctl, "watch", "greeting", env=three)
    # A watch says nothing when it starts: put until it has seen one.
    wait_until(
        lambda: world.run(*ctl, "put", "greeting", "hello", env=three).stdout == "OK\n" and "hello" in watch.stdout,
        "the watch to see a value",
    )
    assert world.run(*ctl, "get", "greeting", env=three).stdout == "greeting\nhello\n"
    assert "is healthy" in (told := world.run(*ctl, "endpoint", "health", env=three)).stdout + told.stderr


def test_caddy_serves_files_and_proxies(world: World, place: Path) -> None:
    (place / "index.html").write_text("from a file\n")
    home = {"HOME": str(place), "XDG_DATA_HOME": str(place), "XDG_CONFIG_HOME": str(place)}
    files = world.start("caddy", "file-server", "--root", place, "--listen", ":80", env=home, listening=80)
    proxy = world.start("caddy", "reverse-proxy", "--from", ":8080", "--to", f"{files.ip}:80", env=home, listening=8080)
    got = world.run("curl", "-sS", "--max-time", "10", url(files.ip), url(proxy.ip, 8080))
    assert got.stdout == "from a file\n" * 2
    loaded = world.run("hey", "-n", "300", "-c", "20", url(proxy.ip, 8080))
    assert "[200]\t300 responses" in loaded.stdout, loaded.stdout
