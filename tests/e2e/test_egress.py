"""Who may go outside: egress rules by network and by name, over TCP and UDP; and ports of the host's loopback."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator

import pytest
from e2e.node import NODE, OUTSIDE, OUTSIDE6, Namespaces, NodeDaemon, Plain
from e2e.world import PROGRAMS, PYTHON, Switched, say, wait_output
from harness import wait_until

UDP = PROGRAMS / "udp.py"
DNSMASQ = ("dnsmasq", "-k", "-C", "/dev/null", "-h", "-R", "-u", "root", "--pid-file=")
EACCES, ECONNREFUSED = 13, 111
OTHER, OTHER6 = "192.0.2.3", "2001:db8::3"  # of the namespace outside, too
NAMES = (
    f"--host-record=one.test,{OUTSIDE},{OUTSIDE6}",
    f"--host-record=other.test,{OTHER},{OTHER6}",
    "--cname=alias.test,one.test",
    "--local=/test/",
)
SERVE = """if 1:
    import selectors, socket, sys
    poll = selectors.DefaultSelector()
    for kind, address in [(k, a) for k in (socket.SOCK_DGRAM, socket.SOCK_STREAM) for a in sys.argv[1:]]:
        server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, 7000))
        if kind == socket.SOCK_STREAM:
            server.listen()
        poll.register(server, selectors.EVENT_READ)
    while True:
        for key, _ in poll.select():
            if key.fileobj.type == socket.SOCK_STREAM:
                client, peer = key.fileobj.accept()
                client.sendall(peer[0].encode())
                client.close()
            else:
                data, peer = key.fileobj.recvfrom(100)
                key.fileobj.sendto(peer[0].encode(), peer)
"""
TRY = """if 1:
    import socket, sys
    def attempt(kind, how, host):
        for family, _, _, _, address in socket.getaddrinfo(host, 7000, type=kind):
            if sys.argv[1] not in ("", str(4 if family == socket.AF_INET else 6)):
                continue
            try:
                with socket.socket(family, kind) as client:
                    client.settimeout(5)
                    if how == "sendto":
                        client.sendto(b"hello", address)
                    else:
                        client.connect(address)
                    if how == "send":
                        client.send(b"hello")
                    print(how, host, client.recv(100).decode())
            except OSError as error:
                print(how, host, error.errno)
    for host in sys.argv[2:]:
        attempt(socket.SOCK_STREAM, "tcp", host)
        attempt(socket.SOCK_DGRAM, "send", host)
        attempt(socket.SOCK_DGRAM, "sendto", host)
"""


def every(host: str, what: object) -> list[str]:
    """What `TRY` prints of a host when all its ways get the same."""
    return [f"{how} {host} {what}" for how in ("tcp", "send", "sendto")]


@pytest.fixture(scope="module")
def wire() -> Iterator[tuple[Namespaces, NodeDaemon]]:
    with contextlib.ExitStack() as stack:
        namespaces = stack.enter_context(Namespaces())
        namespaces.etc("nsswitch.conf", "hosts: files dns\n")
        namespaces.etc("resolv.conf", "nameserver 192.0.2.53\n")
        outside = Plain(namespaces.outside, stack)
        for address in (f"{OTHER}/24", f"{OTHER6}/64"):
            nodad = ["nodad"] if ":" in address else []
            subprocess.run(
                ["ip", "-n", namespaces.outside, "address", "add", address, "dev", "eth0", *nodad], check=True
            )
        outside.start(*DNSMASQ, *NAMES, listening=53)
        outside.start(PYTHON, "-c", SERVE, OUTSIDE, OTHER, OUTSIDE6, OTHER6, listening=7000)
        daemon = NodeDaemon(namespaces.node, "--dns-servers", OUTSIDE)
        yield namespaces, stack.enter_context(daemon)


def attempt(apps: Switched, *hosts: str, options: tuple[str, ...], family: str = "") -> list[str]:
    return apps.run(PYTHON, "-c", TRY, family, *hosts, options=options, patience=60).stdout.splitlines()


def test_everything_by_default(apps: Switched) -> None:
    assert attempt(apps, OUTSIDE, options=()) == every(OUTSIDE, NODE)
    assert attempt(apps, OUTSIDE6, options=("--egress", "allow")) == every(OUTSIDE6, "2001:db8::1")


@pytest.mark.parametrize("error", ["", "EACCES", "ECONNREFUSED"])
def test_nothing(apps: Switched, error: str) -> None:
    options = ("--egress", "deny", *(["--egress-error", error] if error else []))
    expected = ECONNREFUSED if error == "ECONNREFUSED" else EACCES
    for host in (OUTSIDE, OUTSIDE6, NODE):
        assert attempt(apps, host, options=options) == every(host, expected)


def test_programs_say_what_they_got(apps: Switched) -> None:
    words = ("curl", "-sS", "--max-time", "5", f"http://{OUTSIDE}:7000/")
    got = apps.run(*words, options=["--egress", "deny", "--egress-error", "ECONNREFUSED"], status=7)
    assert "Failed to connect" in got.stderr
    got = apps.run("socat", "-t10", "-", f"TCP:{OUTSIDE}:7000", options=["--egress", "deny"], status=1)
    assert "Permission denied" in got.stderr
    got = apps.run("socat", "-", f"UDP:{OUTSIDE}:7000", options=["--egress", "deny"], status=1)
    assert "Permission denied" in got.stderr


def test_networks(apps: Switched) -> None:
    only = ("--egress", "deny", "--egress-allow", f"{OUTSIDE}/32", "--egress-allow", "2001:db8::2/127")
    got = attempt(apps, OUTSIDE, OTHER, OUTSIDE6, "2001:db8::1", options=only)
    assert got[:9] == [*every(OUTSIDE, NODE), *every(OTHER, EACCES), *every(OUTSIDE6, "2001:db8::1")]
    assert got[9:] == every("2001:db8::1", EACCES)
    but = ("--egress-deny", "192.0.2.2/31", "--egress-error", "ECONNREFUSED")
    got = attempt(apps, OUTSIDE, OTHER, OTHER6, options=but)
    assert got == [*every(OUTSIDE, ECONNREFUSED), *every(OTHER, ECONNREFUSED), *every(OTHER6, "2001:db8::1")]


def test_apps_are_not_outside(apps: Switched) -> None:
    one = apps.start(PYTHON, UDP, "serve", "0.0.0.0", "7000", "one", serving=7000)
    got = apps.run(PYTHON, UDP, "ask", one.ip, "7000", "1", options=["--egress", "deny"]).stdout
    assert got.startswith("one ")


@pytest.mark.parametrize("family", ["4", "6"])
def test_names(apps: Switched, family: str) -> None:
    """A rule for a name covers what the app has resolved it to: not before, not what another app has resolved."""
    only = ("--egress", "deny", "--egress-allow", "one.test")
    address, own = (OUTSIDE6, "2001:db8::1") if family == "6" else (OUTSIDE, NODE)
    got = attempt(apps, address, "one.test", address, "other.test", options=only, family=family)
    assert got == [
        *every(address, EACCES), *every("one.test", own), *every(address, own), *every("other.test", EACCES),
    ]  # fmt: skip
    assert attempt(apps, address, options=only) == every(address, EACCES), "another app has not asked"


def test_names_below_a_name_and_aliases(apps: Switched) -> None:
    only = ("--egress", "deny", "--egress-allow", "*.test", "--egress-deny", "other.test")
    got = attempt(apps, "alias.test", "other.test", options=only, family="4")
    assert got == [*every("alias.test", NODE), *every("other.test", EACCES)]


def test_a_denied_name_where_all_else_is_allowed(apps: Switched) -> None:
    got = attempt(apps, "one.test", "other.test", options=("--egress-deny", "one.test"), family="4")
    assert got == [*every("one.test", EACCES), *every("other.test", NODE)]


def test_names_for_other_resolvers(apps: Switched) -> None:
    """It does not matter who in the app has asked, nor over what."""
    script = 'dig +tcp +short one.test A >/dev/null; socat -T5 - "TCP:$0:7000"'
    only = ["--egress", "deny", "--egress-allow", "one.test"]
    assert apps.run("sh", "-c", script, OUTSIDE, options=only).stdout == NODE
    script = "curl -sS -4 --http0.9 --max-time 5 http://one.test:7000/ || true"
    assert apps.run("sh", "-c", script, options=only).stdout == NODE
    script = (
        "require('dns').resolve4('one.test', () => require('net').connect(7000, process.argv[1]).pipe(process.stdout))"
    )
    assert apps.run("node", "-e", script, OUTSIDE, options=only).stdout == NODE


@pytest.mark.parametrize(
    "options",
    [
        ["--egress-allow", "192.0.2.1/24"],
        ["--egress-allow", "not_a_name!"],
        ["--egress-allow", "one.test", "--egress-deny", "one.test"],
        ["--egress", "sometimes"],
        ["--egress-error", "EPERM"],
        ["--host-port", "70000"],
        ["--host-port", "1:2", "--host-port", "1:3"],
    ],
    ids=" ".join,
)
def test_bad_options(apps: Switched, options: list[str]) -> None:
    got = apps.run("true", options=options, status=125)
    assert got.stderr.startswith("ax run: ")
    assert "Traceback" not in got.stderr


# -- the host's loopback ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"], ids=["ipv4", "ipv6"])
def test_host_ports(apps: Switched, host: Plain, address: str) -> None:
    """Named ones lead to the host's loopback, whatever egress says; all others are the app's own."""
    host.start(PYTHON, "-c", SERVE, "127.0.0.1", "::1", listening=7000)
    got = attempt(apps, address, options=("--host-port", "7000", "--egress", "deny"))
    assert got == every(address, address)
    refused = attempt(apps, address, options=("--host-port", "7001"))
    assert refused[:2] == every(address, ECONNREFUSED)[:2]


def test_host_port_under_another_number(apps: Switched, host: Plain) -> None:
    host.start(PYTHON, "-c", SERVE, "127.0.0.1", "::1", listening=7000)
    options = ["--host-port", "80:7000"]
    assert apps.run("socat", "-T5", "-", "TCP4:localhost:80", options=options).stdout == "127.0.0.1"
    assert apps.run("socat", "-t2", "-", "UDP4:localhost:80", input="hello", options=options).stdout == "127.0.0.1"


def test_a_client_of_the_outside_and_of_an_app_at_once(apps: Switched) -> None:
    """One unconnected socket, three places: each answer comes from whom it asked."""
    one = apps.start(PYTHON, UDP, "serve", "0.0.0.0", "7000", "one", serving=7000)
    script = """if 1:
        import socket, sys
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(5)
        for _ in range(3):
            for host in sys.argv[1:]:
                client.sendto(b"x", (host, 7000))
                data, peer = client.recvfrom(100)
                print(data.split()[0].decode(), peer[0])
    """
    got = apps.run(PYTHON, "-c", script, one.ip, OUTSIDE, OTHER).stdout.splitlines()
    assert got == [f"one {one.ip}", f"{NODE} {OUTSIDE}", f"{NODE} {OTHER}"] * 3


def test_a_connected_client_outside(apps: Switched) -> None:
    client = apps.start("socat", "-", f"UDP:{OUTSIDE}:7000", stdin=subprocess.PIPE)
    say(client, "hello")
    wait_output(client, re.escape(NODE))
    wait_until(
        lambda: [row for row in apps.daemon.get("connections") if row["server"] == f"{OUTSIDE}:7000"],
        lambda: f"the flow in {apps.daemon.get('connections')}",
    )
