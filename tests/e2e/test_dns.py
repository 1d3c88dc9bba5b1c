"""Names: every resolver that programs bring along finds apps by name, and what else the node's servers know."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e import build
from e2e.node import OUTSIDE, Namespaces, NodeDaemon, Plain
from e2e.servers import Nginx
from e2e.world import ENVIRONMENT, PROGRAMS, PYTHON, Switched, wait_output
from harness import Addresses, wait_until

pytestmark = pytest.mark.timeout(300)  # the first one waits for the compilers

RESOLV = {
    "elsewhere": "nameserver 192.0.2.53\n",  # nobody has that address: it is the daemon who answers
    "stub": "nameserver 127.0.0.53\noptions edns0 trust-ad\n",  # what systemd-resolved writes
    "ipv6": "nameserver 2001:db8::53\n",
    "override": "nameserver 192.0.2.54\n",
}
DNSMASQ = ("dnsmasq", "-k", "-C", "/dev/null", "-h", "-R", "-u", "root", "--pid-file=")
UPSTREAM = (
    "--host-record=ext.test,192.0.2.7,2001:db8::7",
    "--cname=alias.test,ext.test",
    "--txt-record=long.test," + ",".join(["x" * 200] * 10),
    "--local=/test/",
)


class Node:
    """A node with a name server outside that says which queries it gets."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.namespaces = stack.enter_context(Namespaces())
        self.namespaces.etc("nsswitch.conf", "hosts: files dns\n")
        self.namespaces.etc("hosts", "127.0.0.1 localhost\n::1 localhost\n")
        self.resolv("elsewhere")
        outside = Plain(self.namespaces.outside, stack)
        self.upstream = outside.start(*DNSMASQ, "--log-queries", "--log-facility=-", *UPSTREAM, listening=53)
        self.daemon = stack.enter_context(NodeDaemon(self.namespaces.node, "--dns-servers", OUTSIDE))

    def resolv(self, kind: str) -> list[str]:
        """What is started from now on has that resolv.conf; returns the options that go with it."""
        self.namespaces.etc("resolv.conf", RESOLV[kind])
        return ["--dns-override"] if kind == "override" else []

    def asked(self, name: str) -> int:
        """How many queries for a name came to the server outside."""
        return len(re.findall(rf"query\[\w+\] {re.escape(name)} from", self.upstream.stderr + self.upstream.stdout))


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with contextlib.ExitStack() as stack:
        yield Node(stack)


@pytest.fixture
def apps(node: Node, addresses: Addresses) -> Iterator[Switched]:
    node.resolv("elsewhere")
    with Switched(node.daemon, addresses) as made:
        yield made


# -- every resolver -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str | Path]]:
    with build.once(tmp_path_factory, "names-go", build.go("names.go")) as program:
        yield [program]


@pytest.fixture(scope="session")
def musl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str | Path]]:
    with build.once(tmp_path_factory, "names-musl", build.musl("names.c")) as program:
        yield [program]


@pytest.fixture(scope="module")
def java() -> Iterator[list[str | Path]]:
    place = Path(tempfile.mkdtemp(prefix="axt-java-", dir="/tmp"))
    try:
        subprocess.run(["javac", "-d", place, PROGRAMS / "Names.java"], check=True, env=ENVIRONMENT)
        yield ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx64m", "-cp", place, "Names"]
    finally:
        shutil.rmtree(place)


RESOLVERS: dict[str, list[str | Path]] = {
    "glibc": ["sh", PROGRAMS / "names.sh", "libc"],
    "dig": ["sh", PROGRAMS / "names.sh", "dig"],
    "host": ["sh", PROGRAMS / "names.sh", "host"],
    "busybox": ["sh", PROGRAMS / "names.sh", "busybox"],
    "python": [PYTHON, PROGRAMS / "names.py", "libc"],
    "dnspython": [sys.executable, PROGRAMS / "names.py", "dnspython"],
    "c-ares": ["node", PROGRAMS / "names.js"],
}
WITHOUT_SRV = {"glibc", "busybox", "python", "musl"}


@pytest.mark.parametrize("resolver", [*RESOLVERS, "go", "musl", "java"])
@pytest.mark.parametrize("kind", list(RESOLV))
def test_every_resolver(
    apps: Switched, node: Node, place: Path, request: pytest.FixtureRequest, kind: str, resolver: str
) -> None:
    v4, v6 = apps.addresses.v4(), apps.addresses.v6()
    page = 'server { listen 80; listen [::]:80; location / { return 200 "here\\n"; } }'
    apps.start(*Nginx(place, http=page).argv, ip=f"{v4},{v6}", options=["--name", "web"], listening=80)
    words = RESOLVERS.get(resolver) or request.getfixturevalue(resolver)
    client = f"{apps.addresses.v4()},{apps.addresses.v6()}"
    for name in ("web", "web.appswitch.local"):
        got = apps.run(*words, name, v4, ip=client, options=node.resolv(kind)).stdout.splitlines()
        expected = [f"host {','.join(sorted([v4, v6]))}", "ptr web.appswitch.local"]
        expected += [] if resolver in WITHOUT_SRV else ["srv web.appswitch.local 80"]
        expected *= 2 if resolver == "dnspython" else 1  # once over UDP, once over TCP
        assert [line.strip() for line in got] == [*expected, "get here"], name


@pytest.mark.parametrize("family", [4, 6])
def test_curl_by_name(apps: Switched, place: Path, family: int) -> None:
    v4, v6 = apps.addresses.v4(), apps.addresses.v6()
    page = 'server { listen 80; listen [::]:80; location / { return 200 "to $remote_addr\\n"; } }'
    apps.start(*Nginx(place, http=page).argv, ip=f"{v4},{v6}", options=["--name", "web"], listening=80)
    client = apps.addresses.v6() if family == 6 else apps.addresses.v4()
    words = ("curl", "-sS", f"-{family}", "--max-time", "10", "-w", "%{remote_ip}")
    got = apps.run(*words, "http://web/", ip=client).stdout
    assert got == f"to {client}\n{v6 if family == 6 else v4}"
    # and whichever it likes best, from an app without an address
    assert "to " in apps.run("curl", "-sS", "--max-time", "10", "http://web.appswitch.local/", ip="").stdout


# -- names of apps -----------------------------------------------------------------------------------------


def dig(apps: Switched, *question: str, ip: str = "") -> list[str]:
    return apps.run("dig", "+short", "+time=4", "+tries=1", *question, ip=ip).stdout.split()


def status(apps: Switched, *question: str) -> str:
    got = apps.run("dig", "+time=8", "+tries=1", *question, ip="").stdout
    found = re.search(r"status: (\w+)", got)
    assert found, got
    return found[1]


def test_an_app_with_a_name_alone_draws_addresses(apps: Switched, place: Path) -> None:
    page = "server { listen 80; listen [::]:80; location / { return 200 here; } }"
    app = apps.start(*Nginx(place, http=page).argv, ip="", options=["--name", "drawn"], listening=80)
    (row,) = [row for row in apps.daemon.get("names") if row["name"] == "drawn"]
    assert row["fqdn"] == "drawn.appswitch.local"
    assert sorted(dig(apps, "drawn", "A") + dig(apps, "drawn", "AAAA")) == sorted(row["addresses"])
    pools = {ipaddress.ip_network(pool["network"]): int(pool["used"]) for pool in apps.daemon.get("pools")}
    for address in row["addresses"]:
        assert any(ipaddress.ip_address(address) in pool and used for pool, used in pools.items()), pools
    assert apps.run("curl", "-sS", "--max-time", "10", "http://drawn/", ip="").stdout == "here"
    own = apps.run("hostname", "-I", ip="", options=["--name", "other", "--interface", "eth0"]).stdout.split()
    assert set(own).isdisjoint(row["addresses"])
    app.stop()
    wait_until(lambda: status(apps, "drawn.appswitch.local") == "NXDOMAIN", "the name to be forgotten")
    assert not [row for row in apps.daemon.get("names") if row["name"] == "drawn"]


def test_several_apps_of_one_name(apps: Switched) -> None:
    serve = ("socat", "TCP-LISTEN:80,fork,reuseaddr")
    both = {
        str(apps.start(*serve, f"SYSTEM:echo {who}", options=["--name", "pair"], listening=80).ip)
        for who in ("one", "two")
    }
    assert set(dig(apps, "pair")) == both
    script = 'for n in 1 2 3 4 5 6 7 8 9 10; do socat -t10 - "TCP4:$(dig +noedns +short pair | head -n 1):80"; done'
    assert set(apps.run("sh", "-c", script).stdout.split()) == {"one", "two"}


def test_an_app_finds_itself_and_no_app_of_other_labels(apps: Switched) -> None:
    apps.start("sleep", "60", options=["--name", "far", "--labels", "zone=far"])
    ip = apps.addresses.v4()
    got = apps.run("dig", "+short", "me", "far.appswitch.local", ip=ip, options=["--name", "me"]).stdout.split()
    assert got == [ip]
    assert status(apps, "far.appswitch.local") == "NXDOMAIN"


def test_udp_services_have_srv_records(apps: Switched) -> None:
    app = apps.start(PYTHON, PROGRAMS / "udp.py", "serve", "0.0.0.0", "8125", "one", options=["--name", "stats"])
    wait_output(app, "serving")
    assert dig(apps, "_8125._udp.stats", "SRV")[2:] == ["8125", "stats.appswitch.local."]
    script = 'exec 3<>"/dev/udp/stats/8125"; echo -n hello >&3; head -c 3 <&3'
    assert apps.run("bash", "-c", script).stdout == "one"


def test_another_name_server_than_the_configured_one(apps: Switched) -> None:
    """An app that asks a name server app by its address gets that one's answer, not the daemon's."""
    server = apps.start(*DNSMASQ, "--host-record=a.test,192.0.2.9", serving=53, listening=53)
    assert dig(apps, f"@{server.ip}", "a.test") == ["192.0.2.9"]
    assert dig(apps, f"@{server.ip}", "+tcp", "a.test") == ["192.0.2.9"]


@pytest.mark.parametrize("kind", ["elsewhere", "stub", "loopback"])
@pytest.mark.parametrize("bound", ["wildcard", "address"])
def test_a_name_server_app_where_the_daemon_answers(apps: Switched, node: Node, kind: str, bound: str) -> None:
    """Port 53 of the app is its own, also where its resolv.conf names its loopback. It asks the daemon for the rest."""
    upstream = {"elsewhere": "192.0.2.53", "stub": "127.0.0.53", "loopback": "127.0.0.1"}[kind]
    node.namespaces.etc("resolv.conf", f"nameserver {upstream}\n")
    ip = apps.addresses.v4()
    where = [f"--listen-address={ip}", "--bind-interfaces"] if bound == "address" else []
    more = [f"--server={upstream}"] if kind != "loopback" else []
    apps.start(*DNSMASQ, "--host-record=a.test,192.0.2.9", *where, *more, ip=ip, serving=53, listening=53)
    apps.start("sleep", "60", ip="10.9.9.9", options=["--name", "other"])
    node.resolv("elsewhere")
    for way in ("+notcp", "+tcp"):
        assert dig(apps, way, f"@{ip}", "a.test") == ["192.0.2.9"]
        if more:
            assert dig(apps, way, f"@{ip}", "other.appswitch.local") == ["10.9.9.9"]


# -- other names -----------------------------------------------------------------------------------------


def test_other_names_are_forwarded(apps: Switched, node: Node) -> None:
    assert dig(apps, "ext.test") == ["192.0.2.7"]
    assert dig(apps, "+tcp", "ext.test", "AAAA") == ["2001:db8::7"]
    assert dig(apps, "alias.test") == ["ext.test.", "192.0.2.7"]
    assert dig(apps, "-x", "192.0.2.7") == ["ext.test."]
    assert status(apps, "nothing.test") == "NXDOMAIN"
    assert apps.run("getent", "ahostsv4", "alias.test").stdout.split()[:4] == [
        "192.0.2.7",
        "STREAM",
        "ext.test",
        "192.0.2.7",
    ]
    assert node.asked("ext.test") >= 2


def test_long_answers_come_over_tcp(apps: Switched) -> None:
    got = apps.run("dig", "+bufsize=512", "long.test", "TXT", ip="").stdout
    assert "Truncated, retrying in TCP mode" in got
    assert got.count("x" * 200) == 10
    assert "flags: qr tc" in apps.run("dig", "+noedns", "+ignore", "long.test", "TXT", ip="").stdout
    assert apps.run("dig", "+bufsize=4096", "long.test", "TXT", ip="").stdout.count("x" * 200) == 10


def test_no_name_of_ours_leaves_the_node(apps: Switched, node: Node) -> None:
    assert status(apps, "nobody.appswitch.local") == "NXDOMAIN"
    apps.start("sleep", "60", options=["--name", "here"])
    assert len(dig(apps, "here")) == len(dig(apps, "here.appswitch.local")) == 1
    seen = node.upstream.stderr + node.upstream.stdout
    assert "appswitch.local" not in seen
    assert "] here from" not in seen


def test_many_lookups_at_once(apps: Switched) -> None:
    """glibc with threads: nothing is lost, and no answer is another's."""
    for n in range(5):
        apps.start("sleep", "60", ip=f"10.9.8.{n + 1}", options=["--name", f"many{n}"])
    script = """if 1:
        import concurrent.futures, socket
        def look(n):
            if n % 6 == 5:
                return socket.gethostbyname("ext.test") == "192.0.2.7"
            return socket.gethostbyname(f"many{n % 6}") == f"10.9.8.{n % 6 + 1}"
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            print(sum(pool.map(look, range(600))))
    """
    assert apps.run(PYTHON, "-c", script, patience=30).stdout == "600\n"


def test_name_servers_that_do_not_answer(node: Node, addresses: Addresses) -> None:
    """SERVFAIL, and names of apps go on."""
    with NodeDaemon(node.namespaces.node, "--dns-servers", "192.0.2.98") as daemon, Switched(daemon, addresses) as apps:
        apps.start("sleep", "60", ip="10.9.7.1", options=["--name", "here"])
        waiting = apps.start("dig", "+time=10", "+tries=1", "ext.test", ip="")
        assert dig(apps, "here") == ["10.9.7.1"]
        wait_output(waiting, "status: SERVFAIL")
        waiting.wait()


def test_without_dns(node: Node, addresses: Addresses) -> None:
    with NodeDaemon(node.namespaces.node, "--no-dns") as daemon, Switched(daemon, addresses) as apps:
        got = apps.run("dig", "+time=1", "+tries=1", "ext.test", ip="", status=9).stdout
        assert "no servers could be reached" in got


def test_another_domain(node: Node, addresses: Addresses) -> None:
    with (
        NodeDaemon(node.namespaces.node, "--dns-domain", "corp.example", "--pools", "10.33.0.0/24") as daemon,
        Switched(daemon, addresses) as apps,
    ):
        apps.start("sleep", "60", ip="", options=["--name", "web"])
        for name in ("web", "web.corp.example", "WEB.Corp.Example"):
            (found,) = dig(apps, name)
            assert ipaddress.ip_address(found) in ipaddress.ip_network("10.33.0.0/24")
        assert dig(apps, "-x", found) == ["web.corp.example."]
        got = apps.run("getent", "hosts", "web", ip="", options=["--dns-override"]).stdout
        assert got.split() == [found, "web.corp.example"]


@pytest.mark.parametrize("kind", ["rootless"])
def test_an_unprivileged_daemon(world: Switched) -> None:
    """Its apps have a resolv.conf of their own in a mount namespace of their own."""
    world.start("sleep", "60", options=["--name", "web"])
    ip = world.apps[0].ip
    for words in (["getent", "ahostsv4", "web"], ["dig", "+short", "web"], ["busybox", "nslookup", "web"]):
        assert str(ip) in world.run(*words, options=["--dns-override"]).stdout
