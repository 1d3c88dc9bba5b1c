"""Routed by what a connection's first bytes say: HTTP, HTTP/2, gRPC, TLS, redis, PostgreSQL. With stock clients."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from e2e import postgres
from e2e.servers import Nginx, certificate, redis
from e2e.services import Services, Spec
from e2e.world import PROGRAMS, PYTHON, Switched, authority, url
from harness import App, wait_until

CURL = "curl -sS --max-time 15"
LONG = {"milliseconds": 10_000}
"""Nobody who says something has to wait as long, and nobody is hurried on a busy machine."""


def says(world: Switched, place: Path, word: str, listen: str = "80") -> tuple[App, Nginx]:
    """An nginx that answers everything with ``word``."""
    nginx = Nginx(place / word, http=f'server {{ listen {listen}; return 200 "{word}\\n"; }}', workers=1)
    return world.start(*nginx.argv, listening=80), nginx


def to(app: App, **more: object) -> list[Spec]:
    return [{"ip": str(app.ip), **more}]


def answers(world: Switched, *commands: str, **more: object) -> list[str]:
    """What each prints, a word. All in one app."""
    return world.run("sh", "-ec", "\n".join(commands), **more).stdout.split()  # type: ignore[arg-type]


@pytest.fixture
def client(kind: str) -> Sequence[str]:
    """Options of the clients: over TCP, or in the host's network."""
    return {"unix": [], "tcp": ["--transport", "tcp"], "host": ["--new-netns=false"]}[kind]


@pytest.mark.also("tcp", "host")
def test_http(switched: Switched, services: Services, place: Path, kind: str, client: Sequence[str]) -> None:
    pages, default_log = says(switched, place, "pages")
    api, api_log = says(switched, place, "api")
    admin, _ = says(switched, place, "admin")
    routes = [
        {"match": {"http.method": ["PUT", "POST"], "http.path": ["/files/*"]}, "backends": to(admin)},
        {"match": {"http.path": ["/api/*", "/graphql"]}, "backends": to(api)},
        {"match": {"http.host": ["*.admin.test"]}, "backends": to(admin)},
        {"match": {"http.header.x-canary": ["*"]}, "backends": to(api)},
    ]
    ip = services.vservice("site", *to(pages), routes=routes, peek=LONG)
    own = switched.addresses.v4()
    got = answers(
        switched,
        f"{CURL} {url(ip)}",
        f"{CURL} {url(ip, path='/api/users?id=7')}",
        f"{CURL} {url(ip, path='/apis')}",
        f"{CURL} -X POST -d graph {url(ip, path='/graphql')}",
        f"{CURL} -X POST -d file {url(ip, path='/files/1')}",
        f"{CURL} {url(ip, path='/files/1')}",
        f"{CURL} -H 'Host: WWW.admin.test:80' {url(ip)}",
        f"{CURL} -H 'X-Canary: yes' {url(ip)}",
        f"{CURL} {url(ip)} {url(ip, path='/api/1')}",  # one connection: it stays with whom it began
        f"{CURL} -0 {url(ip, path='/api/1')}",
        ip=own, options=client,
    )  # fmt: skip
    assert got == ["pages", "api", "pages", "api", "admin", "pages", "admin", "api", "pages", "pages", "api"]
    seen = {line[0] for line in default_log.access + api_log.access}
    assert seen == {own}, "the client's own address"
    assert services.stats()["flows.allowed"] >= 10


@pytest.mark.also("tcp")
def test_every_way_of_waiting(switched: Switched, services: Services, kind: str) -> None:
    """Servers notice a connection that is handed to them as they notice any other: threads, loops, processes."""
    switched.transport = "tcp" if kind == "tcp" else ""
    kinds = ("threading", "forking", "asyncio", "prefork", "select", "poll", "epoll", "edge", "oneshot", "exclusive")
    program = PROGRAMS / "servers.py"
    servers = [switched.start(PYTHON, program, one, "7000", listening=7000) for one in kinds]
    routes = [{"match": {"http.path": ["*"]}, "backends": to(servers[0])}]
    ip = services.vservice("all", *(str(one.ip) for one in servers), ports="80:7000", routes=routes, peek=LONG)
    own = switched.addresses.v4()
    seen = switched.run(PYTHON, PROGRAMS / "lines.py", ip, "80", "200", "16", ip=own, patience=40).stdout
    assert seen.splitlines() == sorted(f"{own} {one.ip}|7000" for one in servers)


@pytest.mark.also("tcp")
def test_many_at_once(switched: Switched, services: Services, place: Path, kind: str) -> None:
    """Each of many connections is held, and led to a server with several processes; others come to it directly."""
    switched.transport = "tcp" if kind == "tcp" else ""
    nginx = [Nginx(place / word, http=f'server {{ listen 80 backlog=512; return 200 "{word}"; }}') for word in "ab"]
    servers = [switched.start(*one.argv, listening=80) for one in nginx]
    routes = [{"match": {"http.path": ["/b/*"]}, "backends": to(servers[1])}]
    ip = services.vservice("site", *to(servers[0]), routes=routes, peek=LONG)
    hey = "hey -n 600 -c 60 -disable-keepalive"
    targets = url(ip, path="/b/"), url(ip, path="/a/"), url(str(servers[0].ip), path="/a/")
    script = "".join(f"{hey} {target} & " for target in targets)
    loaded = switched.run("sh", "-c", f"{script} wait", patience=50).stdout
    assert loaded.count("[200]\t600 responses") == 3, loaded
    counts: Callable[[], list[int]] = lambda: [len(one.access) for one in nginx]  # noqa: E731
    wait_until(lambda: counts() == [1200, 600], lambda: f"their logs: {counts()}")
    assert [{line[3] for line in one.access} for one in nginx] == [{"/a/"}, {"/b/"}]


def test_a_short_queue(switched: Switched, services: Services) -> None:
    """A server that wants five connections in its queue: the others wait, as they would with TCP."""
    server = switched.start(PYTHON, PROGRAMS / "servers.py", "httpd", "80", listening=80)
    routes = [{"match": {"http.path": ["/x"]}, "backends": to(server)}]
    ip = services.vservice("site", *to(server), routes=routes, peek=LONG)
    loaded = switched.run("hey", "-n", "300", "-c", "100", "-disable-keepalive", url(ip), patience=40).stdout
    assert "[200]\t300 responses" in loaded, loaded
    assert "Error distribution" not in loaded, loaded


def test_http2_and_grpc(switched: Switched, services: Services, place: Path) -> None:
    """Clients that send their first request unprompted, as curl does; grpcio waits for the server's settings."""
    other, _ = says(switched, place, "other", "80 http2")
    greeter, _ = says(switched, place, "greeter", "80 http2")
    admin, _ = says(switched, place, "admin", "80 http2")
    routes = [
        {"match": {"grpc.service": ["test.Greeter"], "grpc.method": ["Delete*"]}, "backends": to(admin)},
        {"match": {"grpc.service": ["test.Greeter"]}, "backends": to(greeter)},
        {"match": {"http.version": ["2"], "http.path": ["/admin/*"]}, "backends": to(admin)},
    ]
    ip = services.vservice("calls", *to(other), routes=routes, peek=LONG)
    curl = f"{CURL} --http2-prior-knowledge"
    grpc = f"{curl} -H 'content-type: application/grpc' -H 'te: trailers' -X POST"
    got = answers(
        switched,
        f"{curl} {url(ip)}",
        f"{curl} {url(ip, path='/admin/1')}",
        f"{grpc} {url(ip, path='/test.Greeter/Who')}",
        f"{grpc} {url(ip, path='/test.Greeter/DeleteAll')}",
        f"{grpc} {url(ip, path='/test.Other/Who')}",
        f"{curl} {url(ip, path='/test.Greeter/Who')}",
    )
    assert got == ["other", "admin", "greeter", "admin", "other", "other"]


def test_grpcio_goes_to_the_default_and_loses_nothing(switched: Switched, services: Services) -> None:
    program = PROGRAMS / "greeter.py"
    default, routed = (switched.start(sys.executable, program, "serve", "50051", listening=50051) for _ in range(2))
    routes = [{"match": {"grpc.service": ["test.Greeter"]}, "backends": to(routed)}]
    ip = services.vservice("calls", *to(default), ports="80:50051", routes=routes, peek={"milliseconds": 50})
    told = json.loads(switched.run(sys.executable, program, "load", authority(ip, 80), "4", "5").stdout)
    assert {pid for channel in told for pid in channel} <= {str(default.pid), str(routed.pid)}, told
    assert all(len(set(channel)) == 1 and len(channel) == 5 for channel in told), told


def tls(world: Switched, place: Path, name: str) -> tuple[App, Path]:
    """An `openssl s_server` with a certificate of its own."""
    (place / name).mkdir()
    cert, key = certificate(place / name, name, f"DNS:{name},DNS:*.{name}")
    words = ("openssl", "s_server", "-quiet", "-www", "-accept", "8443", "-cert", cert, "-key", key)
    return world.start(*words, listening=8443), cert


@pytest.mark.also("tcp")
def test_server_names(switched: Switched, services: Services, place: Path, kind: str, client: Sequence[str]) -> None:
    """Each name leads to the server with the certificate for it; nothing is decrypted on the way."""
    mail, mail_cert = tls(switched, place, "mail.test")
    shops, shops_cert = tls(switched, place, "shop.test")
    default, default_cert = tls(switched, place, "default.test")
    routes = [
        {"match": {"tls.sni": ["mail.test"]}, "backends": to(mail)},
        {"match": {"tls.sni": ["*.shop.test"]}, "backends": to(shops)},
    ]
    ip = services.vservice("tls", *to(default), ports="443:8443", routes=routes, peek=LONG)

    def get(name: str, cert: Path, *options: str) -> str:
        words = [CURL, "-o /dev/null -w '%{http_code}\\n'", f"--cacert {cert}", f"--resolve {name}:443:{ip}", *options]
        return " ".join([*words, f"https://{name}/"])

    got = answers(
        switched,
        get("mail.test", mail_cert),
        get("mail.test", mail_cert, "--tls-max 1.2"),
        get("one.shop.test", shops_cert),
        get("default.test", default_cert),
        # The certificate of another server is not accepted: curl's status 60.
        f"{get('mail.test', default_cert)} 2>/dev/null || echo $?",
        # Without a name: by address.
        f"{CURL} -k -o /dev/null -w '%{{http_code}}\\n' https://{ip}/",
        options=client,
    )
    assert got == ["200", "200", "200", "200", "000", "60", "200"]


def test_redis_without_flushall(switched: Switched, services: Services, place: Path) -> None:
    """The first command of a connection decides whether it may be served."""
    server = redis(switched, place)
    ip = services.vservice("redis", str(server.ip), ports="6379")
    services.policy(
        "no-flush", "deny", to={"names": ["red*"]},
        l7=[{"redis.command": ["FLUSH*"]}, {"redis.command": ["CONFIG"], "redis.subcommand": ["SET"]}],
    )  # fmt: skip
    cli = f"redis-cli -h {ip}"
    got = answers(
        switched,
        f"{cli} set key kept",
        f"! {cli} flushall >/dev/null 2>&1 && echo denied",
        f"! {cli} flushdb async >/dev/null 2>&1 && echo denied",
        f"! {cli} config set maxmemory 1 >/dev/null 2>&1 && echo denied",
        f"{cli} config get maxmemory | tail -n 1",
        f"{cli} get key",
        f"{cli} -3 get key",
        # As a name of the server the vservice does not count for who goes past it.
        f"redis-cli -h {server.ip} flushall",
        f"{cli} exists key",
    )
    assert got == ["OK", "denied", "denied", "denied", "0", "kept", "kept", "OK", "0"], got
    assert services.stats()["flows.denied"] >= 3


def test_psql_by_database(switched: Switched, services: Services, place: Path, cluster: Path) -> None:
    """Two servers behind one address, each with databases of its own; the client names one in its first packet."""
    servers = {}
    for name in ("main", "billing"):
        (place / name).mkdir()
        servers[name] = postgres.postgres(switched, cluster, place / name, switched.addresses.v4())
    routes = [
        {"match": {"postgresql.database": ["billing*"]}, "backends": to(servers["billing"])},
        {"match": {"postgresql.user": ["clerk"]}, "backends": to(servers["billing"])},
    ]
    ip = services.vservice("pg", *to(servers["main"]), ports="5432", routes=routes, peek=LONG)
    psql = f"{postgres.BIN}/psql -X -At"

    def at(who: str, sql: str, mode: str = "disable") -> str:
        return f'{psql} "host={ip} sslmode={mode} {who}" -c "{sql}"'

    create = "CREATE DATABASE billing_2", "CREATE ROLE clerk LOGIN"
    address = "SELECT host(inet_server_addr())"
    got = answers(
        switched,
        f'{psql} "host={servers["billing"].ip} user=postgres" -q -c "{create[0]}" -c "{create[1]}"',
        at("user=postgres dbname=postgres", address),
        at("user=postgres dbname=billing_2", address),
        at("user=clerk dbname=postgres", address),
        # It asks for TLS first, and names nothing before it has an answer: the default's.
        at("user=postgres dbname=postgres", address, "prefer"),
        f"! {at('user=postgres dbname=billing_2', address, 'prefer')} 2>/dev/null && echo elsewhere",
    )
    main, billing = str(servers["main"].ip), str(servers["billing"].ip)
    assert got == [main, billing, billing, main, "elsewhere"], got
