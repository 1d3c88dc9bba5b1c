"""Which backend a connection of a vservice goes to: hashing, weights, counts, drain, priority, locality, limits."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest
from e2e.servers import Nginx
from e2e.services import Services
from e2e.world import PROGRAMS, PYTHON, Switched, authority, hang_up, say, url, wait_output
from harness import App, wait_until

CURL = ("curl", "-sS", "--max-time", "15")
FRESH = ("-H", "Connection: close")  # a connection for each request


def memcached(world: Switched, **more: object) -> App:
    return world.start("memcached", "-u", "root", "-p", "11211", "-m", "16", listening=11211, **more)  # type: ignore[arg-type]


def greeter(world: Switched, word: str, *options: str, port: int = 7000) -> App:
    """Says ``word``, then echoes."""
    script = f"SYSTEM:echo {word}; exec cat"
    return world.start("socat", f"TCP-LISTEN:{port},fork,backlog=64", script, options=options, listening=port)


def ask(world: Switched, ip: str, *, port: int = 7000, status: int | None = 0, **more: object) -> str:
    """Who answers."""
    done = world.run("socat", "-t10", "-", f"TCP:{ip}:{port}", status=status, **more)  # type: ignore[arg-type]
    return done.stdout.strip() or done.stderr.strip().rpartition(": ")[2]


def hold(world: Switched, ip: str, *, port: int = 7000, **more: object) -> tuple[App, str]:
    """A client that stays connected, and who it is connected to."""
    client = world.start("socat", "-", f"TCP:{ip}:{port}", stdin=subprocess.PIPE, **more)  # type: ignore[arg-type]
    return client, wait_output(client, r"(\w+)\n")[1]


def leave(client: App) -> None:
    hang_up(client)
    client.wait()


def test_memcached_by_key(switched: Switched, services: Services) -> None:
    """Three servers behind one address: a key stays where it is, and moves only when its own server goes."""
    servers = [memcached(switched) for _ in range(3)]
    one, two, three = (str(server.ip) for server in servers)
    ip = services.vservice("cache", one, two, three, ports="11211", lbType="RingHash", hashOn="memcached.key")
    keys = [f"key-{number}" for number in range(24)]
    client = (sys.executable, PROGRAMS / "memcached_keys.py", ip, "11211")
    found = json.loads(switched.run(*client, "3", *keys).stdout)
    assert all(len(set(pids)) == 1 for pids in found.values()), found
    before = {key: pids[0] for key, pids in found.items()}
    assert set(before.values()) == {server.pid for server in servers}
    servers[0].stop()
    after = json.loads(switched.run(*client, "2", *keys).stdout)
    assert all(len(set(pids)) == 1 for pids in after.values()), after
    stayed = {key for key in keys if before[key] != servers[0].pid}
    assert all(after[key][0] == before[key] for key in stayed), (before, after)
    assert {pids[0] for pids in after.values()} == {server.pid for server in servers[1:]}


def test_a_client_stays_with_its_server(switched: Switched, services: Services) -> None:
    """By a hash of its address, however that is asked for; other clients go elsewhere."""
    servers = [str(memcached(switched).ip) for _ in range(3)]
    maglev = services.vservice("cache", *servers, ports="11211", lbType="Maglev")
    pinned = services.vservice("pinned", *servers, ports="11211", sourceIp=True)
    script = 'for ip in "$@"; do "$0" "$PROGRAM" $ip 11211 6 3; done'
    served: list[list[str]] = []
    for _ in range(8):
        env = {"PROGRAM": str(PROGRAMS / "memcached_client.py")}
        told = switched.run("sh", "-c", script, PYTHON, maglev, pinned, env=env).stdout.splitlines()
        counts = [json.loads(line)["served"] for line in told]
        assert [list(count.values()) for count in counts] == [[6], [6]], told
        served.append([next(iter(count)) for count in counts])
    for pids in zip(*served, strict=True):
        assert len(set(pids)) > 1, "eight clients, three servers"


def test_canary(switched: Switched, services: Services, place: Path) -> None:
    """Of a hundred connections ten go to the new version; a change of weights holds at once."""
    answers = {word: f'server {{ listen 80; return 200 "{word}\\n"; }}' for word in ("old", "new")}
    for word, http in answers.items():
        options = ["--labels", f"zone=default,track={word}"]
        switched.start(*Nginx(place / word, http=http, workers=1).argv, options=options, listening=80)

    def weighted(old: int, new: int) -> str:
        return services.vservice(
            "shop", {"labels": {"track": "old"}, "weight": old}, {"labels": {"track": "new"}, "weight": new},
            lbType="Weighted", ip="10.20.0.1",
        )  # fmt: skip

    ip = weighted(90, 10)
    hundred = (*CURL, *FRESH, url(ip, path="/[1-100]"))
    assert collections.Counter(switched.run(*hundred).stdout.split()) == {"old": 90, "new": 10}
    weighted(0, 10)
    assert collections.Counter(switched.run(*hundred).stdout.split()) == {"new": 100}


def test_grpc_is_balanced_by_connection(switched: Switched, services: Services) -> None:
    """grpcio on both sides; each channel is a connection, each has a server, and all its calls go there."""
    program = PROGRAMS / "greeter.py"
    servers = [switched.start(sys.executable, program, "serve", "50051", listening=50051) for _ in range(2)]
    ip = services.vservice("greeter", *(str(server.ip) for server in servers), ports="80:50051")
    told = json.loads(switched.run(sys.executable, program, "load", authority(ip, 80), "6", "5").stdout)
    assert sorted(told) == sorted([[str(server.pid)] * 5 for server in servers] * 3), told


def test_both_ends_see_virtual_addresses(switched: Switched, services: Services) -> None:
    """The client is connected to the virtual address, the server to its own, from the client's."""
    for transport in ("unix", "tcp"):
        switched.transport = transport
        server = switched.start(PYTHON, PROGRAMS / "servers.py", "threading", "7000", listening=7000)
        ip = services.vservice("web", str(server.ip), ports="80:7000")
        client = switched.addresses.v4()
        seen = switched.run(PYTHON, PROGRAMS / "lines.py", ip, "80", "6", "3", ip=client).stdout
        assert seen == f"{client} {server.ip}|7000\n"


def test_least_connections(switched: Switched, services: Services) -> None:
    one, two = greeter(switched, "one"), greeter(switched, "two")
    ip = services.vservice("db", str(one.ip), str(two.ip), ports="7000", lbType="LeastConnections")
    ips = {"one": str(one.ip), "two": str(two.ip)}

    def wait_idle(word: str) -> None:
        """Ends are counted now and then, and whenever somebody looks."""
        wait_until(lambda: services.backends("db")[ips[word]]["active"] == 0, f"{word} to be idle")

    first, busy = hold(switched, ip)
    (idle,) = ips.keys() - {busy}
    for _ in range(2):
        assert ask(switched, ip) == idle
        wait_idle(idle)
    second, other = hold(switched, ip)
    assert other == idle
    leave(first)
    wait_idle(busy)
    assert ask(switched, ip) == busy
    leave(second)


def test_drain(switched: Switched, services: Services) -> None:
    """A backend that drains keeps its connections and gets no more."""
    one, two = greeter(switched, "one"), greeter(switched, "two")
    first, second = {"ip": str(one.ip)}, {"ip": str(two.ip)}
    ip = services.vservice("chat", first, second, ports="7000", lbType="RoundRobin")
    clients = [hold(switched, ip) for _ in range(2)]
    assert {who for _, who in clients} == {"one", "two"}
    services.vservice("chat", first | {"drain": True}, second, ports="7000", ip=ip)
    assert {ask(switched, ip) for _ in range(3)} == {"two"}
    states = services.backends("chat")
    assert (states[str(one.ip)]["state"], states[str(one.ip)]["active"]) == ("draining", 1)
    for client, who in clients:
        say(client, f"still {who}\n")
        wait_output(client, f"still {who}\n")
        leave(client)


def test_priority_and_locality(switched: Switched, services: Services) -> None:
    """The nearest of the best: another zone, and then another priority, only while there is nobody else."""
    labels = ("--labels", "zone=east,all=yes")
    servers = {zone: greeter(switched, zone, "--labels", f"zone={zone},all=yes") for zone in ("east", "west", "spare")}
    ips = {zone: str(server.ip) for zone, server in servers.items()}
    ip = services.vservice(
        "near", ips["east"], ips["west"], {"ip": ips["spare"], "priority": 1}, ports="7000",
    )  # fmt: skip
    assert {ask(switched, ip, options=["--labels", "all=yes"]) for _ in range(2)} == {"east", "west"}
    assert {ask(switched, ip, options=labels) for _ in range(2)} == {"east"}
    servers["east"].stop()
    assert {ask(switched, ip, options=labels) for _ in range(2)} == {"west"}
    servers["west"].stop()
    assert ask(switched, ip, options=labels) == "spare"


@pytest.mark.parametrize("error", ["ECONNREFUSED", "EHOSTUNREACH"])
def test_circuit_breaking(switched: Switched, services: Services, error: str) -> None:
    """Two connections for each backend; who comes then fails as configured; there is room when one has ended."""
    server = greeter(switched, "one")
    ip = services.vservice("small", str(server.ip), ports="7000", limits={"connections": 2, "error": error})
    first, second = hold(switched, ip)[0], hold(switched, ip)[0]
    text = {"ECONNREFUSED": "Connection refused", "EHOSTUNREACH": "No route to host"}[error]
    assert ask(switched, ip, status=1) == text
    leave(first)
    wait_until(lambda: ask(switched, ip, status=None) == "one", "its end to be counted")
    assert services.backends("small")[str(server.ip)]["state"] == "healthy", "full is not ill"
    leave(second)


def test_pending_connections(switched: Switched, services: Services) -> None:
    """A server that does not accept gets two, whatever its queue would hold; the next go to another one."""
    script = "import signal, socket; s = socket.create_server(('', 7000), backlog=50); signal.pause()"
    deaf = switched.start(PYTHON, "-c", script, listening=7000)
    ip = services.vservice("deaf", str(deaf.ip), ports="7000", limits={"pending": 2, "error": "ETIMEDOUT"})
    waiting = [switched.start("socat", "-", f"TCP:{ip}:7000", stdin=subprocess.PIPE) for _ in range(2)]
    wait_until(lambda: services.backends("deaf")[str(deaf.ip)]["total"] == 2, "two of them")
    assert ask(switched, ip, status=1) == "Connection timed out"
    other = greeter(switched, "other")
    services.vservice("deaf", str(deaf.ip), str(other.ip), ports="7000", ip=ip, limits={"pending": 2})
    assert {ask(switched, ip) for _ in range(2)} == {"other"}
    for client in waiting:
        hang_up(client)
        client.kill()


def test_ipv6(switched: Switched, services: Services) -> None:
    """A vservice with an address of each family; a backend has those that it has."""
    both = f"{switched.addresses.v4()},{switched.addresses.v6()}"
    script = "TCP6-LISTEN:7000,ipv6-v6only=0,fork"
    server = switched.start("socat", script, "SYSTEM:echo $SOCAT_PEERADDR; cat", ip=both, listening=7000)
    ip, ip6 = switched.addresses.v4(), switched.addresses.v6()
    services.vservice("dual", {"ip": str(server.ip).split(",")[1]}, ports="80:7000", ip=f"{ip},{ip6}")
    own = f"{switched.addresses.v4()},{switched.addresses.v6()}"
    seen = switched.run("sh", "-c", f"socat -t10 - TCP:{ip}:80; socat -t10 - TCP6:[{ip6}]:80", ip=own).stdout.split()
    assert len(seen) == 2, seen
