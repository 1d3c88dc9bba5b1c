"""Servers of UDP that the host's ports lead to: they see the real clients, and clients the address they asked."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess

import pytest
from e2e.node import NODE, NODE6, OUTSIDE, OUTSIDE6, Plain
from e2e.world import PROGRAMS, PYTHON, Switched, say, wait_output
from harness import App, wait_until

UDP = PROGRAMS / "udp.py"
DNSMASQ = ("dnsmasq", "-k", "-C", "/dev/null", "-h", "-R", "-u", "root", "--pid-file=", "--log-queries")
RECORDS = (
    "--log-facility=-",
    "--host-record=a.test,192.0.2.77",
    "--txt-record=long.test," + ",".join(["x" * 200] * 10),
)


def serve(apps: Switched, expose: str, *, name: str = "one", ip: str | None = None, where: str = "0.0.0.0") -> App:
    app = apps.start(
        PYTHON, UDP, "serve", where, "7000", name, ip=ip, options=["--expose", expose], serving=7000
    )  # fmt: skip
    wait_output(app, "serving")
    return app


def dnsmasq(apps: Switched, expose: str, *more: str) -> App:
    """One socket for each protocol, on the app's address."""
    ip = apps.addresses.v4()
    words = (*DNSMASQ, *more, f"--listen-address={ip}", "--bind-interfaces")
    return apps.start(*words, ip=ip, options=["--expose", expose], serving=53, listening=53)


def test_dns_server(apps: Switched, host: Plain, outside: Plain) -> None:
    """``--expose 53:PORT``: UDP and TCP alike, and truncation leads from one to the other."""
    app = dnsmasq(apps, "53:5353", *RECORDS)
    for client, server, seen in ((outside, NODE, OUTSIDE), (host, NODE, NODE), (host, "127.0.0.1", "127.0.0.1")):
        for way in ("+notcp", "+tcp"):
            words = ("dig", "+time=4", "+tries=1", "-p", "5353", f"@{server}", way)
            assert client.run(*words, "+short", "a.test").stdout == "192.0.2.77\n", (server, way)
        wait_output(app, f"query\\[A\\] a.test from {seen}\n")
    words = ("dig", "+time=4", "+tries=1", "+bufsize=512", "-p", "5353", f"@{NODE}", "long.test", "TXT")
    assert "Truncated, retrying in TCP mode" in outside.run(*words).stdout
    own = apps.run("dig", "+short", "+time=4", "+tries=1", f"@{app.ip}", "a.test").stdout
    assert own == "192.0.2.77\n", "apps reach it as ever"


def test_one_protocol(apps: Switched, outside: Plain) -> None:
    dnsmasq(apps, "53:5354/udp", *RECORDS)
    words = ("dig", "+short", "+time=2", "+tries=1", "-p", "5354", f"@{NODE}", "a.test")
    assert outside.run(*words).stdout == "192.0.2.77\n"
    assert "connection refused" in outside.run(*words, "+tcp", status=9).stdout


def test_the_other_protocol(apps: Switched, outside: Plain) -> None:
    dnsmasq(apps, "53:5355/tcp", *RECORDS)
    words = ("dig", "+short", "+time=2", "+tries=1", "-p", "5355", f"@{NODE}", "a.test")
    assert outside.run(*words, "+tcp").stdout == "192.0.2.77\n"
    assert "connection refused" in outside.run(*words, status=9).stdout


def test_the_clients_address_and_port(apps: Switched, outside: Plain) -> None:
    serve(apps, "7000:7001")
    for line in outside.run(PYTHON, UDP, "ask", NODE, "7001", "10").stdout.splitlines():
        told, _, addresses = line.partition(" question ")
        seen = addresses.partition("('")[2].replace("'", "").replace(" ", "").rstrip(")").split(",")
        assert told.split() == ["one", *seen[:2]]
        assert seen[2:] == [NODE, "7001"]


def test_sizes(apps: Switched, outside: Plain) -> None:
    serve(apps, "7000:7002", name="echo")
    got = outside.run(PYTHON, UDP, "sizes", NODE, "7002", "0", "1", "1472", "9000", "65507").stdout
    assert got.splitlines() == [f"{size} True {NODE} 7002" for size in (0, 1, 1472, 9000, 65507)]


def test_on_one_address_of_the_host(apps: Switched, host: Plain) -> None:
    serve(apps, f"7000:{NODE}:7003/udp")
    assert host.run(PYTHON, UDP, "ask", NODE, "7003", "1").stdout.startswith("one ")
    assert "Connection refused" in host.run(PYTHON, UDP, "ask", "127.0.0.1", "7003", "1", status=1).stderr


@pytest.mark.parametrize("where", ["0.0.0.0", "::"])
def test_both_families_of_the_host(apps: Switched, outside: Plain, where: str) -> None:
    """Without an address of the host, as far as the server itself speaks them."""
    ip = f"{apps.addresses.v4()},{apps.addresses.v6()}"
    serve(apps, "7000:7009/udp", ip=ip, where=where)
    assert outside.run(PYTHON, UDP, "ask", NODE, "7009", "1").stdout.split()[1] in (OUTSIDE, f"::ffff:{OUTSIDE}")
    told = outside.run(PYTHON, UDP, "ask", NODE6, "7009", "1", status=None)
    if where == "::":
        assert told.stdout.split()[1] == OUTSIDE6
    else:
        assert "Connection refused" in told.stderr


def test_a_port_that_is_taken(apps: Switched, host: Plain) -> None:
    """The app's bind(2) says so, and so does the daemon's log; who has it keeps it."""
    words = (PYTHON, UDP, "serve", "0.0.0.0", "7004", "owner")
    with contextlib.ExitStack() as stack:
        owner = Plain(host.namespace, stack).start(
            PYTHON, "-c", "import signal, socket; u = socket.socket(type=socket.SOCK_DGRAM); u.bind(('0.0.0.0', 7004));"
            "s = socket.create_server(('0.0.0.0', 7004)); signal.pause()", listening=7004,
        )  # fmt: skip
        words = (PYTHON, UDP, "serve", "0.0.0.0", "7000", "one")
        refused = apps.run(*words, options=["--expose", "7000:7004/udp"], status=1)
        assert "Address already in use" in refused.stderr
        said = "cannot expose .*host=0.0.0.0:7004 +protocol=udp +error=EADDRINUSE +hint=.*ss -tulpn"
        wait_until(lambda: re.search(said, apps.daemon.output), lambda: f"{said!r} in the log of\n{apps.daemon.app}")
        assert owner.running()


def test_two_apps_ask_for_one_port(apps: Switched) -> None:
    serve(apps, "7000:7005/udp")
    words = (PYTHON, UDP, "serve", "0.0.0.0", "7000", "two")
    got = apps.run(*words, options=["--expose", "7000:7005/udp"], status=None)
    assert got.returncode != 0
    assert "7005" in got.stderr or "Address already in use" in got.stderr


def test_exposed_ports_are_shown_and_free_again(apps: Switched, host: Plain) -> None:
    app = serve(apps, "7000:7006/udp")
    (row,) = [row for row in apps.daemon.get("exposed") if row["address"].endswith(":7006")]
    assert (row["internal"], row["proto"]) == (7000, "udp")

    def bound() -> bytes:
        words = ["ip", "netns", "exec", host.namespace, "ss", "-Hlun", "sport = :7006"]
        return subprocess.run(words, check=True, capture_output=True).stdout

    assert bound()
    app.stop()
    wait_until(lambda: not bound(), "the host's port to be free")
    assert serve(apps, "7000:7006/udp").running()


def test_sipp(apps: Switched, outside: Plain) -> None:
    called = apps.start(
        "sipp", "-sn", "uas", "-m", "10", "-nostdin", options=["--expose", "5060:5062/udp"], serving=5060
    )
    words = ("sipp", "-sn", "uac", "-m", "10", "-r", "50", "-d", "50", "-timeout", "20", "-nostdin")
    outside.run(*words, f"{NODE}:5062", patience=25)
    assert called.wait() == 0


@pytest.mark.parametrize("more", [(), ("-R",), ("--bidir",)], ids=["up", "down", "both"])
def test_iperf3(apps: Switched, host: Plain, outside: Plain, more: tuple[str, ...]) -> None:
    """The server connects the socket that got the first datagram, and binds another one to the same port."""
    app = apps.start("iperf3", "-s", "--forceflush", options=["--expose", "5201:5301"], listening=5201)
    for number, (who, server) in enumerate(((outside, NODE), (host, "127.0.0.1")), 1):
        wait_output(app, rf"Server listening on 5201 \(test #{number}\)")  # between two tests it does not listen
        words = ("iperf3", "-c", server, "-p", "5301", "-u", "-b", "4M", "-t", "1", "-P", "2", "-J", *more)
        got = json.loads(who.run(*words, patience=25).stdout)
        assert got["end"]["sum"]["packets"] > 15
        assert got["end"]["sum"]["lost_percent"] < 20  # a busy machine is no fault


def test_workers_with_one_port(apps: Switched, outside: Plain) -> None:
    """SO_REUSEPORT: each client has one of them, and stays with it; when one goes, the others serve."""
    script = """if 1:
        import os, signal, socket, sys
        def work(name):
            one = socket.socket(type=socket.SOCK_DGRAM)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(("0.0.0.0", 7000))
            print("serving", flush=True)
            while True:
                data, peer = one.recvfrom(2000)
                one.sendto(name, peer)
        children = []
        for name in (b"one", b"two", b"three"):
            children.append(os.fork())
            if not children[-1]:
                work(name)
        sys.stdin.readline()
        os.kill(children[0], signal.SIGKILL)
        os.waitpid(children[0], 0)
        print("killed", flush=True)
        sys.stdin.readline()
        for child in children[1:]:
            os.kill(child, signal.SIGKILL)
    """
    app = apps.start(PYTHON, "-c", script, options=["--expose", "7000:7008/udp"], stdin=subprocess.PIPE)
    wait_until(lambda: app.stdout.count("serving") == 3, lambda: str(app))
    words = (PYTHON, UDP, "ask", NODE, "7008", "40")
    assert {line.split()[0] for line in outside.run(*words).stdout.splitlines()} == {"one", "two", "three"}
    say(app, "kill\n")
    wait_output(app, "killed")
    wait_until(lambda: len(apps.daemon.servers(7000, app.ip)) == 2, "the dead one to be forgotten")
    assert {line.split()[0] for line in outside.run(*words).stdout.splitlines()} == {"two", "three"}
    say(app, "end\n")


def test_an_exposed_server_talks_to_apps_and_the_outside_too(apps: Switched, outside: Plain) -> None:
    """dnsmasq forwards to a name server app; the outside and apps ask it at the same time."""
    back = apps.start(*DNSMASQ, *RECORDS, serving=53)
    front = dnsmasq(apps, "53:5356", f"--server={back.ip}", "--cache-size=0")
    words = ("dig", "+short", "+time=4", "+tries=1")
    for _ in range(3):
        assert outside.run(*words, "-p", "5356", f"@{NODE}", "a.test").stdout == "192.0.2.77\n"
        assert apps.run(*words, f"@{front.ip}", "a.test").stdout == "192.0.2.77\n"
