"""Services that are not up yet: addresses and names of programs' own configuration, mapped by service references."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.servers import Nginx
from e2e.services import Services
from e2e.world import PROGRAMS, PYTHON, Switched, url, wait_output
from harness import App, wait_until

LATE = (PYTHON, PROGRAMS / "late.py")
KINDS = ("blocking", "poll", "epoll", "select", "again", "asyncio")


def server(world: Switched, role: str, port: int = 5432) -> App:
    return world.start(
        "socat", f"TCP-LISTEN:{port},fork,backlog=64", "SYSTEM:echo hello; exec cat",
        options=["--labels", f"zone=default,role={role}"], listening=port,
    )  # fmt: skip


def wait_waiting(services: Services, count: int) -> None:
    wait_until(lambda: services.stats()["waiting"] == count, lambda: f"{count} waiting: {services.stats()}")


@pytest.mark.also("tcp", "rootless")
def test_a_server_that_starts_after_its_clients(switched: Switched, services: Services, kind: str) -> None:
    """Whatever the way of waiting: all of them go on when it comes, and see the address that they asked for."""
    switched.transport = "tcp" if kind == "tcp" else ""
    old = switched.addresses.v4()
    services.reference("late", old, {"labels": {"role": f"late-{kind}"}}, ports=["1521:5432"])
    clients = {how: switched.start(*LATE, how, old, "1521") for how in KINDS}
    for how, client in clients.items():
        wait_output(client, "blocking" if how == "blocking" else "in progress")
    wait_waiting(services, len(clients))
    server(switched, f"late-{kind}")
    for client in clients.values():
        assert client.wait() == 0, client
        assert client.stdout.splitlines()[1] == f"{client.ip} {old} 1521 hello", client
    wait_waiting(services, 0)
    # And who comes later does not wait at all.
    assert switched.run(*LATE, "poll", old, "1521").stdout.endswith(f"{old} 1521 hello\n")


@pytest.mark.timeout(300)  # the first one waits for the compiler
def test_stock_clients(switched: Switched, services: Services, place: Path, web: Path) -> None:
    """curl, Go, node, redis-cli: none of them knows that it waits."""
    old = switched.addresses.v4()
    services.reference("old-web", old, {"name": "new-web"}, ports=["80", "6379"])
    clients = [
        switched.start("curl", "-sS", "--max-time", "30", url(old)),
        switched.start("curl", "-sS", "--max-time", "30", "http://old-web/"),
        switched.start(web, "load", url(old), "4", "2"),
        switched.start("node", PROGRAMS / "web.js", "load", url(old), "8", "4"),
        switched.start("redis-cli", "-h", old, "set", "key", "value"),
    ]
    wait_until(lambda: services.stats()["waiting"] >= 1 + 1 + 4 + 4 + 1, lambda: f"waiting: {services.stats()}")
    ip = switched.addresses.v4()
    nginx = Nginx(place)
    switched.start(*nginx.argv, ip=ip, options=["--name", "new-web"], listening=80)
    for client in clients[:4]:
        assert client.wait() == 0, client
    assert [client.stdout.startswith("hello from") for client in clients[:2]] == [True, True]
    assert "done 8" in clients[2].stdout
    assert '"keep":{"done":8' in clients[3].stdout
    assert {line[0] for line in nginx.access} == {client.ip for client in clients[:4]}
    assert clients[4].running(), "of this service nobody is there yet"
    switched.start(
        "redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", place,
        options=["--name", "new-web"], listening=6379,
    )  # fmt: skip
    assert clients[4].wait() == 0
    assert clients[4].stdout == "OK\n"


def test_nobody_comes(switched: Switched, services: Services) -> None:
    """ETIMEDOUT both ways after the reference's time, or earlier by the program's own time-out."""
    old, never = switched.addresses.v4(), switched.addresses.v4()
    services.reference("nobody", old, {"labels": {"role": "nobody"}}, wait=1)
    services.reference("never", never, {"labels": {"role": "nobody"}}, wait=60)
    clients = {how: switched.start(*LATE, how, old, "1521") for how in KINDS}
    own = (
        switched.start(*LATE, "asyncio", never, "1521", "0.5"),
        switched.start(*LATE, "sndtimeo", never, "1521", "0.5"),
    )
    curl = switched.start("curl", "-sS", "--connect-timeout", "1", url(never))
    killed = [switched.start(*LATE, how, never, "1521") for how in ("blocking", "poll")]
    for client in clients.values():
        assert client.wait() == 0, client
        assert client.stdout.splitlines()[1].split()[0] == "ETIMEDOUT", client
    assert own[0].wait() == own[1].wait() == 0
    assert own[0].stdout.splitlines()[1].split()[0] == "timeout"
    assert own[1].stdout.splitlines()[1].split()[0] == "EINPROGRESS"  # connect(2), as socket(7) has it
    assert curl.wait() == 28
    for client in killed:
        client.kill()


def test_a_network_of_addresses(switched: Switched, services: Services) -> None:
    """A wildcard: each address of it is the service; the client goes on to see the one that it asked for."""
    services.reference("shards", "10.109.0.0/16", {"labels": {"role": "shard"}})
    services.reference("one-shard", "10.109.7.7", {"labels": {"role": "one-shard"}})
    targets = ["10.109.0.1", "10.109.255.254", "10.109.7.7"]
    clients = [
        switched.start(*LATE, how, ip, "5432") for how, ip in zip(("blocking", "poll", "epoll"), targets, strict=True)
    ]
    wait_waiting(services, 3)
    server(switched, "shard")
    for client, ip in zip(clients[:2], targets, strict=False):
        assert client.wait() == 0
        assert client.stdout.splitlines()[1] == f"{client.ip} {ip} 5432 hello"
    assert clients[2].running(), "the narrower one is another service"
    server(switched, "one-shard")
    assert clients[2].wait() == 0
    assert clients[2].stdout.splitlines()[1] == f"{clients[2].ip} 10.109.7.7 5432 hello"


def test_the_reference_comes_and_changes_while_they_wait(switched: Switched, services: Services) -> None:
    """A vservice without backends waits as well; whoever is waiting is decided anew by whatever changes."""
    ip = services.vservice("soon", ports="1521:5432")
    clients = [switched.start(*LATE, how, ip, "1521") for how in ("blocking", "poll")]
    other = [switched.start(*LATE, how, ip, "1521") for how in ("blocking", "select")]
    wait_waiting(services, 4)
    for client in other:
        client.kill()
    server(switched, "soon")
    services.vservice("soon", {"labels": {"role": "soon"}}, ports="1521:5432", ip=ip)
    for client in clients:
        assert client.wait() == 0
        assert client.stdout.splitlines()[1] == f"{client.ip} {ip} 1521 hello"


def test_a_denied_one_does_not_wait_for_ever(switched: Switched, services: Services) -> None:
    """A policy that comes while somebody waits holds when the service is there."""
    old = switched.addresses.v4()
    services.reference("secret", old, {"labels": {"role": "secret"}}, wait=20)
    clients = [switched.start(*LATE, how, old, "5432") for how in ("blocking", "poll")]
    wait_waiting(services, 2)
    services.policy("nobody", "deny", to={"labels": {"role": "secret"}}, error="EPERM")
    server(switched, "secret")
    for client in clients:
        assert client.wait() == 0
    assert clients[0].stdout.splitlines()[1].split()[0] == "EPERM"
    assert "hello" not in clients[1].stdout
