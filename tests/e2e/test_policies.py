"""Who may connect to whom, with real programs: what a denied call fails with, what is closed, what is told."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest
from e2e.services import Services
from e2e.world import PROGRAMS, PYTHON, Switched, hang_up, say, wait_output
from harness import Addresses, App, Daemon, wait_until
from harness.addresses import free_port

UDP = PROGRAMS / "udp.py"
TEXT = {
    "EACCES": "Permission denied",
    "EPERM": "Operation not permitted",
    "ECONNREFUSED": "Connection refused",
    "ETIMEDOUT": "Connection timed out",
    "ENETUNREACH": "Network is unreachable",
    "EHOSTUNREACH": "No route to host",
}


def echo(world: Switched, *options: str, port: int = 7000) -> App:
    return world.start(
        "socat", f"TCP-LISTEN:{port},fork,backlog=64", "SYSTEM:echo hello; exec cat", options=options, listening=port
    )


def ask(
    world: Switched, *targets: str, ip: str | None = None, options: tuple[str, ...] = (), user: str = ""
) -> list[str]:
    """What each target says, or why it cannot be reached. All from one app."""
    script = 'for to in "$@"; do socat -t10 - "TCP:$to" 2>&1 </dev/null | sed "s/.*: //" | head -n 1; done'
    got = world.run("sh", "-c", script, "sh", *targets, ip=ip, options=options, user=user)
    return got.stdout.splitlines()


def labels(**more: str) -> tuple[str, str]:
    return "--labels", ",".join(f"{key}={value}" for key, value in {"zone": "default", **more}.items())


def denials(services: Services, rule: str) -> list[str]:
    """Lines of the daemon's log about what this policy denied."""
    return [line for line in services.daemon.output.splitlines() if "denied" in line and f"rule={rule}" in line]


@pytest.mark.parametrize("error", TEXT)
def test_an_error_of_choice(switched: Switched, services: Services, error: str) -> None:
    """For blocking and non-blocking clients; once in the log, with the rule's name."""
    server = echo(switched)
    services.policy(f"no-{error.lower()}", "deny", to={"networks": [str(server.ip)]}, error=error)
    to = f"{server.ip}:7000"
    script = f"for n in 1 2 3; do socat -t10 - TCP:{to}; done; curl -sS --max-time 5 http://{to}"
    got = switched.run("sh", "-c", script, status=28 if error == "ETIMEDOUT" else 7)
    assert got.stderr.count(TEXT[error]) >= 3, got.stderr
    assert got.stdout == ""
    wait_until(lambda: denials(services, f"no-{error.lower()}"), "the denial in the log")
    assert len(denials(services, f"no-{error.lower()}")) == 1
    assert services.stats()["flows.denied"] >= 4


def test_a_deny_wins_and_an_allow_list_closes(switched: Switched, services: Services) -> None:
    one, two = echo(switched, *labels(app="db")), echo(switched, *labels(app="web"))
    db, web = f"{one.ip}:7000", f"{two.ip}:7000"
    denied = TEXT["EACCES"]
    api, guest = labels(role="api"), labels(role="guest")
    assert ask(switched, db, web, options=api) == ["hello", "hello"]
    services.policy(
        "db-from-api", "allow", from_={"labels": {"role": "api"}}, to={"labels": {"app": "db"}}, ports=["7000"]
    )
    assert ask(switched, db, web, options=api) == ["hello", "hello"]
    assert ask(switched, db, web, options=guest) == [denied, "hello"], "the list closes what it selects, nothing else"
    services.policy("not-api", "deny", from_={"labels": {"role": "api"}}, to={"labels": {"app": "db"}})
    assert ask(switched, db, web, options=api) == [denied, "hello"], "a deny wins"
    services.delete("policy", "not-api")
    services.policy(
        "only-web", "allow", direction="egress", from_={"labels": {"role": "api"}}, to={"labels": {"app": "web"}}
    )
    assert ask(switched, db, web, options=api) == [denied, "hello"], "closed in its own direction"
    services.delete("policy", "only-web")
    assert ask(switched, db, web, options=api) == ["hello", "hello"]


def test_dry_run(switched: Switched, services: Services) -> None:
    server = echo(switched)
    services.policy("would", "deny", to={"networks": [str(server.ip)]}, dryRun=True)
    assert ask(switched, *[f"{server.ip}:7000"] * 3) == ["hello"] * 3
    wait_until(lambda: denials(services, "would"), "the would-be denial in the log")
    assert len(denials(services, "would")) == 1
    assert "would be denied" in denials(services, "would")[0]


def test_users_and_programs(switched: Switched, services: Services) -> None:
    """Who calls is the process, not the app: two programs of one app may differ, and two users."""
    server = echo(switched)
    to = f"{server.ip}:7000"
    services.policy("no-curl", "deny", from_={"executables": ["/usr/bin/curl"]}, to={"networks": [str(server.ip)]})
    script = f"curl -s --http0.9 --max-time 5 {to} || echo $?; socat -t10 - TCP:{to} </dev/null"
    assert switched.run("sh", "-c", script).stdout == "7\nhello\n"
    services.delete("policy", "no-curl")
    services.policy("no-daemon", "deny", from_={"uids": [1]}, to={"networks": [str(server.ip)]})
    assert ask(switched, to, user="daemon") == [TEXT["EACCES"]]
    assert ask(switched, to) == ["hello"]
    # Within one app: the same address, asked for by another user.
    asks = f"socat -t10 - TCP:{to} </dev/null"
    script = f"setpriv --reuid 1 --clear-groups {asks} || echo denied; {asks}"
    assert switched.run("sh", "-c", script).stdout == "denied\nhello\n"


def test_networks_outside(switched: Switched, services: Services) -> None:
    """Addresses of the host: its loopback here, so that nothing leaves it."""
    port = free_port("127.0.0.9")
    host = App(["socat", f"TCP-LISTEN:{port},bind=127.0.0.9,fork", "SYSTEM:echo outside"], os.environ)
    with host:
        wait_until(lambda: _listens(port), "the host's server")
        options = ("--new-netns=false",)
        to = f"127.0.0.9:{port}"
        assert ask(switched, to, options=options) == ["outside"]
        services.policy(
            "not-there", "deny", direction="egress", to={"networks": ["127.0.0.8/30"]}, error="EHOSTUNREACH"
        )
        assert ask(switched, to, options=options) == [TEXT["EHOSTUNREACH"]]


def _listens(port: int) -> bool:
    return bool(subprocess.run(["ss", "-Hltn", f"sport = :{port}"], check=True, capture_output=True).stdout.strip())


def test_datagrams(switched: Switched, services: Services) -> None:
    server = switched.start(PYTHON, UDP, "serve", "0.0.0.0", "7000", "one", serving=7000)
    script = """if 1:
        import socket, sys
        for how in "sendto", "connect":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(5)
                try:
                    if how == "connect":
                        sock.connect((sys.argv[1], 7000))
                        sock.send(b"x")
                    else:
                        sock.sendto(b"x", (sys.argv[1], 7000))
                    print(how, sock.recv(100).split()[0].decode())
                except OSError as error:
                    print(how, error.strerror)
    """
    ask_both = (PYTHON, "-c", script, str(server.ip))
    assert switched.run(*ask_both).stdout.splitlines() == ["sendto one", "connect one"]
    services.policy("no-udp", "deny", to={"networks": [str(server.ip)]}, ports=["7000/udp"])
    denied = TEXT["EACCES"]
    assert switched.run(*ask_both).stdout.splitlines() == [f"sendto {denied}", f"connect {denied}"]
    services.delete("policy", "no-udp")
    assert switched.run(*ask_both).stdout.splitlines() == ["sendto one", "connect one"]


@pytest.mark.also("tcp")
def test_a_change_holds_at_once(switched: Switched, services: Services, kind: str) -> None:
    """For new connections; established ones go on, until --kill closes those that are forbidden, and no others."""
    switched.transport = "tcp" if kind == "tcp" else ""
    one, two = echo(switched), echo(switched)
    clients = [switched.start("socat", "-", f"TCP:{to.ip}:7000", stdin=subprocess.PIPE) for to in (one, one, two)]
    for client in clients:
        wait_output(client, "hello")
    forbidden = {"to": {"networks": [str(one.ip)]}}
    assert services.policy("closed", "deny", **forbidden)["killed"] == []
    assert ask(switched, f"{one.ip}:7000", f"{two.ip}:7000") == [TEXT["EACCES"], "hello"]
    say(clients[0], "goes on\n")
    wait_output(clients[0], "goes on")
    killed = services.policy("closed", "deny", kill=True, **forbidden)["killed"]
    assert {row["client"].rpartition(":")[0] for row in killed} == {clients[0].ip, clients[1].ip}
    for client in clients[:2]:
        client.wait()
    say(clients[2], "still here\n")
    wait_output(clients[2], "still here")
    hang_up(clients[2])
    assert clients[2].wait() == 0


def test_exposed_ports(switched: Switched, services: Services) -> None:
    """Strangers have an address and nothing else; what they say first is judged as well."""
    port = free_port()
    server = echo(switched, "--expose", f"7000:127.0.0.1:{port}", *labels(app="front"))
    wait_until(lambda: _listens(port), "the host's port")

    def stranger(source: str, said: str = "hello\n") -> str:
        words = ["socat", "-t5", "-", f"TCP:127.0.0.1:{port},bind={source}"]
        return subprocess.run(words, input=said, capture_output=True, text=True, timeout=20, check=False).stdout

    assert stranger("127.0.0.1").startswith("hello\n")
    services.policy("from-one", "allow", from_={"networks": ["127.0.0.2"]}, to={"labels": {"app": "front"}})
    assert stranger("127.0.0.1") == ""
    assert stranger("127.0.0.2") == "hello\nhello\n"
    assert ask(switched, f"{server.ip}:7000") == [TEXT["EACCES"]]
    services.policy("from-one", "allow", from_={"networks": ["127.0.0.0/8"]}, l7=[{"http.path": ["/open/*"]}])
    assert "GET /open/1" in stranger("127.0.0.1", "GET /open/1 HTTP/1.0\r\n\r\n")
    assert stranger("127.0.0.1", "GET /closed HTTP/1.0\r\n\r\n") == ""


def test_an_app_at_an_exposed_port_is_itself(switched: Switched, services: Services) -> None:
    """By an address of the host an app comes to an exposed port, and to an external vservice: it is no stranger."""
    port, external = free_port(), free_port()
    server = echo(switched, "--expose", f"7000:127.0.0.1:{port}", *labels(app="front"))
    wait_until(lambda: _listens(port), "the host's port")
    services.vservice("outer", str(server.ip), ports=f"{external}:7000", external=True)
    wait_until(lambda: _listens(external), "the host's other port")
    services.policy("no-guests", "deny", from_={"labels": {"role": "guest"}}, to={"labels": {"app": "front"}})
    ports = ("--host-port", str(port), "--host-port", str(external))
    targets = (f"127.0.0.1:{port}", f"127.0.0.1:{external}")
    assert ask(switched, *targets, options=(*ports, *labels(role="api"))) == ["hello", "hello"]
    assert ask(switched, *targets, options=(*ports, *labels(role="guest"))) == []
    wait_until(lambda: len(denials(services, "no-guests")) == 2, "both denials in the log")


@pytest.fixture
def own(daemon_factory: Callable[..., Daemon], addresses: Addresses) -> Iterator[Switched]:
    with Switched(daemon_factory(), addresses) as made:
        yield made


def test_a_killed_switch_is_succeeded_by_one_that_knows(own: Switched, addresses: Addresses) -> None:
    """Connections go on; new ones are decided by the same policies, never by none; held ones are held on."""
    services = Services(own.daemon, addresses)
    server, closed = echo(own), echo(own)
    routes = [{"match": {"http.path": ["/x"]}, "backends": [{"ip": str(server.ip)}]}]
    ip = services.vservice("web", str(server.ip), ports="80:7000")
    held = services.vservice("held", str(server.ip), ports="80:7000", routes=routes, peek={"milliseconds": 50_000})
    old = addresses.v4()
    services.reference("late", old, {"labels": {"role": "late"}})
    services.policy("closed", "deny", to={"networks": [str(closed.ip)]}, error="EPERM")
    full = services.vservice("full", str(server.ip), ports="80:7000", limits={"connections": 1})
    client = own.start("socat", "-", f"TCP:{full}:80", stdin=subprocess.PIPE)
    wait_output(client, "hello")
    silent = own.start("socat", "-", f"TCP:{held}:80", stdin=subprocess.PIPE)
    late = [own.start(PYTHON, PROGRAMS / "late.py", how, old, "7000") for how in ("blocking", "poll")]
    wait_until(lambda: services.stats()["waiting"] == 2 and services.stats()["held"] == 1, "them to be held")
    # Tries without end, and says when it was let through.
    script = f"while ! socat - TCP:{closed.ip}:7000 </dev/null >/dev/null 2>&1; do :; done; echo open"
    tries = own.start("sh", "-c", script)
    for _ in range(2):
        status, told = own.daemon.rest("GET", "/v1/status")
        assert status == 200
        os.kill(told["pids"]["switch"], signal.SIGKILL)
        told = ask(own, f"{full}:80", f"{ip}:80", f"{closed.ip}:7000")
        assert told == [TEXT["ECONNREFUSED"], "hello", TEXT["EPERM"]]
        say(client, "kept\n")
        wait_output(client, "(kept\n)+")
    say(silent, "GET /x HTTP/1.0\r\n\r\n")
    wait_output(silent, "hello")
    hang_up(silent)
    assert silent.wait(20) == 0
    assert late[1].wait(20) == 0
    assert late[1].stdout.splitlines()[1].split()[0] in ("ECONNREFUSED", "ECONNRESET"), late[1]
    echo(own, *labels(role="late"))
    assert late[0].wait(20) == 0
    assert late[0].stdout.splitlines()[1] == f"{late[0].ip} {old} 7000 hello", "a blocking call is asked again"
    assert tries.running()
    assert tries.stdout == ""
    tries.kill()
    hang_up(client)
    assert client.wait() == 0
    assert services.backends("web")[str(server.ip)]["state"] == "healthy"


@pytest.mark.also("tcp")
def test_kill_behind_a_vservice(switched: Switched, services: Services, kind: str) -> None:
    """What is forbidden is a backend, by its own address and port; those of the other backend stay."""
    switched.transport = "tcp" if kind == "tcp" else ""
    one, two = echo(switched), echo(switched)
    backends = [{"ip": str(server.ip)} for server in (one, two)]
    plain = services.vservice("plain", *backends, ports="80:7000")
    held = services.vservice(
        "held", *backends, ports="80:7000", routes=[{"match": {"http.path": ["/one"]}, "backends": backends[:1]}]
    )
    clients = [switched.start("socat", "-", f"TCP:{ip}:80", stdin=subprocess.PIPE) for ip in (plain, plain, held)]
    say(clients[2], "GET /one HTTP/1.0\r\n\r\n")
    for client in clients:
        wait_output(client, "hello")
    rows = {row["client"]: row["backend"] for row in switched.daemon.get("connections")}
    assert sorted(rows.values()) == sorted([f"{one.ip}:7000"] * 2 + [f"{two.ip}:7000"]), rows
    told = services.policy("closed", "deny", kill=True, to={"networks": [str(one.ip)]}, ports=["7000"])
    killed = {row["client"] for row in told["killed"]}
    assert killed == {client for client, backend in rows.items() if backend.startswith(f"{one.ip}:")}
    alive = [client for client in clients if not any(one.startswith(f"{client.ip}:") for one in killed)]
    assert len(alive) == 1
    assert clients[2].wait() == 0
    say(alive[0], "still here\n")
    wait_output(alive[0], "still here")
    hang_up(alive[0])
    for client in clients:
        client.wait()
