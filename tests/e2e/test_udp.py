"""Programs that speak UDP, app to app: each sees the virtual addresses, and an answer comes from where it was asked."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from e2e.servers import certificate
from e2e.world import PROGRAMS, PYTHON, World, authority, hang_up, say, wait_output
from harness import App, wait_until

UDP = PROGRAMS / "udp.py"


def server(world: World, name: str, ip: str | None = None, where: str = "0.0.0.0", port: int = 7000) -> App:
    app = world.start(PYTHON, UDP, "serve", where, str(port), name, ip=ip, serving=port)
    wait_output(app, "serving")
    return app


@pytest.mark.also("tcp", "rootless")
@pytest.mark.parametrize("family", [4, 6])
def test_both_sides_see_virtual_addresses(world: World, family: int) -> None:
    ip, client = (world.addresses.v6() if family == 6 else world.addresses.v4() for _ in range(2))
    server(world, "one", ip=ip, where="::" if family == 6 else "0.0.0.0")
    got = world.run(PYTHON, UDP, "ask", ip, "7000", "5", ip=client).stdout.splitlines()
    assert len(got) == 5
    for number, line in enumerate(got):
        found = re.fullmatch(rf"one (\S+) (\d+) question {number} \('(\S+)', (\d+), '(\S+)', 7000\)", line)
        assert found, line
        assert (found[1], found[2]) == (found[3], found[4]) == (client, found[4])
        assert found[5] == ip


@pytest.mark.also("tcp")
def test_sizes(world: World) -> None:
    """Empty, more than a page, the most that UDP carries over IPv4, and one byte more: EMSGSIZE."""
    app = server(world, "echo")
    got = world.run(PYTHON, UDP, "sizes", app.ip, "7000", "0", "1", "9000", "65507", "65508").stdout
    assert got.splitlines() == [*(f"{size} True {app.ip} 7000" for size in (0, 1, 9000, 65507)), "65508 90"]


@pytest.mark.also("tcp")
@pytest.mark.parametrize("listen", ["UDP-LISTEN:7000,fork", "UDP-RECVFROM:7000,fork"])
def test_socat_and_netcat(world: World, listen: str) -> None:
    """UDP-LISTEN connects the very socket that it has bound, and makes another one; RECVFROM answers unconnected."""
    app = world.start("socat", listen, "EXEC:cat", serving=7000)
    for client in (
        ["socat", "-t2", "-", f"UDP:{app.ip}:7000"],
        ["socat", "-t2", "-", f"UDP-SENDTO:{app.ip}:7000"],
        ["socat", "-t2", "-", f"UDP:{app.ip}:7000,bind=:4444"],
        ["nc.openbsd", "-u", "-w", "1", str(app.ip), "7000"],
    ):
        for text in ("one\n", "two\n"):
            world.wait_listening(app, 7000, proto="udp")
            assert world.run(*client, input=text).stdout == text, client


def test_netcat_as_server(world: World) -> None:
    app = world.start("nc.openbsd", "-u", "-l", "7000", serving=7000, stdin=subprocess.PIPE)
    client = world.start("nc.openbsd", "-u", str(app.ip), "7000", stdin=subprocess.PIPE)
    say(client, "question\n")
    wait_output(app, "question")
    say(app, "answer\n")
    wait_output(client, "answer")


def test_a_closed_port_is_refused(world: World) -> None:
    """With ICMP's port unreachable, as between hosts: the next call of a connected client says so."""
    ip = world.hold()
    client = world.start(PYTHON, UDP, "follow", ip, "7000", stdin=subprocess.PIPE)
    say(client, "anybody\n")
    wait_output(client, "error 111")


@pytest.mark.also("tcp", "rootless")
def test_iperf3(world: World) -> None:
    app = world.start("iperf3", "-s", "-1", listening=5201)
    got = json.loads(world.run("iperf3", "-c", app.ip, "-u", "-b", "20M", "-t", "1", "-P", "2", "-J").stdout)
    whole = got["end"]["sum"]
    assert whole["packets"] > 50
    assert whole["lost_percent"] < 20  # a busy machine is no fault; a broken path loses everything
    app.wait()


def test_iperf3_in_reverse(world: World) -> None:
    """The server is the one who sends."""
    app = world.start("iperf3", "-s", "-1", listening=5201)
    got = json.loads(world.run("iperf3", "-c", app.ip, "-u", "-R", "-b", "20M", "-t", "1", "-J").stdout)
    assert got["end"]["sum"]["packets"] > 20
    assert got["end"]["sum"]["lost_percent"] < 20


@pytest.mark.parametrize("ips", ["4", "6", "46", "64"], ids=["ipv4", "ipv6", "dual-ipv4", "dual-ipv6"])
def test_quic(world: World, place: Path, ips: str) -> None:
    """The client's socket is always IPv6, and speaks to IPv4 as ::ffff:…; the server's is for both families in dual."""
    cert, key = certificate(place, "quic.test", alternative="DNS:quic.test")
    mine = {"4": world.addresses.v4(), "6": world.addresses.v6()}
    where = "::" if ips != "4" else "0.0.0.0"
    app = world.start(
        sys.executable, PROGRAMS / "quic.py", "serve", where, "4433", cert, key,
        ip=",".join(mine[family] for family in sorted(ips)), serving=4433,
    )  # fmt: skip
    client = world.addresses.v6() if ips[0] == "6" else world.addresses.v4()
    asked = ("ask", mine[ips[0]], "4433", cert, "300000", "8")
    got = world.run(sys.executable, PROGRAMS / "quic.py", *asked, ip=client, patience=30).stdout
    seen = client if ips in {"4", "6", "64"} else f"::ffff:{client}"
    assert got == f"{ {seen} } done 8\n", app


def test_sipp(world: World, place: Path) -> None:
    """Its built-in scenarios: a user agent that calls, and one that is called."""
    called = world.start("sipp", "-sn", "uas", "-m", "20", "-nostdin", cwd=place, serving=5060)
    words = ("sipp", "-sn", "uac", "-m", "20", "-r", "100", "-d", "50", "-timeout", "20", "-nostdin")
    got = world.run(*words, f"{called.ip}:5060", cwd=place, patience=25).stdout
    assert re.search(r"Successful call +\| +\d+ +\| +20 ", got), got
    assert re.search(r"Failed call +\| +\d+ +\| +0 ", got), got
    assert called.wait() == 0


def test_tftp_answers_from_another_port(world: World, place: Path) -> None:
    """The server binds a socket to the address that the request was for (IP_PKTINFO) and connects it to the client."""
    content = os.urandom(100_000)
    (place / "data").write_bytes(content)
    app = world.start("in.tftpd", "-L", "-s", "-c", "-u", "root", place, serving=69)
    world.run("tftp", "-m", "binary", app.ip, "-c", "get", "data", place / "got")
    assert (place / "got").read_bytes() == content
    world.run("tftp", "-m", "binary", app.ip, "-c", "put", place / "got", "back")
    assert (place / "back").read_bytes() == content


CHRONY = """
pidfile {place}/{name}.pid
bindcmdaddress /
cmdport 0
{more}
"""


def chronyd(place: Path, name: str, more: str) -> list[str | Path]:
    """A chronyd that leaves the clock alone."""
    conf = place / f"{name}.conf"
    conf.write_text(CHRONY.format(place=place, name=name, more=more))
    return ["chronyd", "-x", "-U", "-u", "root", "-f", conf]


@pytest.mark.parametrize("family", [4, 6])
def test_ntp(world: World, place: Path, family: int) -> None:
    """chronyd answers from the address that was asked (IP_PKTINFO); it and ntpdig compare the source of answers."""
    ip, client = (world.addresses.v6() if family == 6 else world.addresses.v4() for _ in range(2))
    words = chronyd(place, "server", "local stratum 8\nallow all")
    world.start(*words, "-d", ip=ip, serving=123)
    assert f" {ip} s8 " in world.run("ntpdig", ip, ip=client).stdout
    got = world.run(*chronyd(place, "client", f"server {ip} iburst maxsamples 1"), "-Q", ip=client, patience=25)
    assert "System clock wrong by" in got.stderr + got.stdout


SYSLOG = """
global(workDirectory="{place}" net.enableDNS="off")
module(load="imudp")
input(type="imudp" port="514")
template(name="line" type="string" string="%fromhost-ip% %programname%%msg:::sp-if-no-1st-sp%%msg%\\n")
action(type="omfile" file="{place}/log" template="line")
"""


def test_syslog(world: World, place: Path) -> None:
    (place / "conf").write_text(SYSLOG.format(place=place))
    app = world.start("rsyslogd", "-n", "-f", place / "conf", "-i", "NONE", serving=514)
    clients = [world.addresses.v4() for _ in range(2)]
    wanted = []
    for number, client in enumerate(clients):
        world.run("logger", "-d", "-n", app.ip, "-t", "e2e", f"message {number}", ip=client)
        wanted.append(f"{client} e2e message {number}")
    script = """if 1:
        import logging, logging.handlers, sys
        log = logging.getLogger()
        log.addHandler(logging.handlers.SysLogHandler((sys.argv[1], 514)))
        for n in range(50): log.warning("e2e: line %d", n)
    """
    world.run(PYTHON, "-c", script, app.ip, ip=clients[0])
    wanted += [f"{clients[0]} e2e line {number}" for number in range(50)]
    log = place / "log"

    def lines() -> list[str]:
        return [" ".join(line.rstrip("\0").split()) for line in log.read_text().splitlines()]

    wait_until(lambda: log.exists() and len(lines()) == len(wanted), lambda: f"{log.read_text()}\n{app}")
    assert lines() == wanted


STATSD = """if 1:
    import collections, socketserver, sys
    counts = collections.Counter()
    class Handler(socketserver.DatagramRequestHandler):
        def handle(self):
            name, _, rest = self.rfile.read().decode().partition(":")
            counts[self.client_address[0], name] += int(rest.partition("|")[0])
            print(dict(counts), flush=True)
    class Server(socketserver.UDPServer):
        allow_reuse_address = True
    Server(("", 8125), Handler).serve_forever()
"""


def test_counters_of_a_shell(world: World) -> None:
    """As shell scripts do statsd: bash's /dev/udp, a socket that is connected, written to as a file, and closed."""
    app = world.start(PYTHON, "-c", STATSD, serving=8125)
    client = world.addresses.v4()
    script = 'for n in 1 2 3 4 5; do echo -n "hits:$n|c" >/dev/udp/$0/8125; done'
    world.run("bash", "-c", script, app.ip, ip=client)
    wait_output(app, re.escape(f"{{('{client}', 'hits'): 15}}"))


def test_snmp(world: World, place: Path) -> None:
    (place / "conf").write_text(
        "rocommunity public\nrocommunity6 public\nsysName the-app\nagentaddress udp:161,udp6:161\n"
    )
    v4, v6 = world.addresses.v4(), world.addresses.v6()
    own = {"SNMP_PERSISTENT_DIR": str(place), "MIBS": ""}
    words = ("snmpd", "-f", "-Lo", "-C", "-c", place / "conf", "-p", place / "pid")
    snmpd = world.start(*words, ip=f"{v4},{v6}", serving=161, env=own)
    name, system = ".1.3.6.1.2.1.1.5.0", ".1.3.6.1.2.1.1"
    for agent, client in ((v4, world.addresses.v4()), (f"udp6:[{v6}]", world.addresses.v6())):
        got = world.run("snmpget", "-v2c", "-c", "public", "-Ov", agent, name, ip=client, env=own)
        assert got.stdout == 'STRING: "the-app"\n'
        walked = world.run("snmpwalk", "-v2c", "-c", "public", "-On", agent, system, ip=client, env=own)
        assert len(walked.stdout.splitlines()) > 5
    snmpd.stop()  # it writes to ``place`` as it ends


# -- DNS servers, as apps ---------------------------------------------------------------------------------------------

RECORDS = ("--host-record=a.test,192.0.2.7,2001:db8::7", "--txt-record=long.test," + ",".join(["x" * 200] * 10))
DNSMASQ = ("dnsmasq", "-k", "-C", "/dev/null", "-h", "-R", "-u", "root", "--pid-file=", "--edns-packet-max=4096")


@pytest.mark.parametrize("bound", ["wildcard", "address"])
@pytest.mark.parametrize("family", [4, 6])
def test_dnsmasq_and_dig(world: World, bound: str, family: int) -> None:
    ip, client = (world.addresses.v6() if family == 6 else world.addresses.v4() for _ in range(2))
    where = [f"--listen-address={ip}", "--bind-interfaces"] if bound == "address" else []
    world.start(*DNSMASQ, *RECORDS, *where, ip=ip, serving=53, listening=53)
    dig = ("dig", "+time=3", "+tries=2", f"@{ip}")
    for way in ("+notcp", "+tcp"):
        got = world.run(*dig, way, "a.test", "A", "a.test", "AAAA", ip=client).stdout
        assert "192.0.2.7" in got
        assert "2001:db8::7" in got
        assert got.count(f";; SERVER: {ip}#53({ip}) ({'UDP' if way == '+notcp' else 'TCP'})") == 2
    assert "Truncated, retrying in TCP mode" in world.run(*dig, "+bufsize=512", "long.test", "TXT", ip=client).stdout
    assert "MSG SIZE  rcvd: 2" in world.run(*dig, "+bufsize=4096", "+ignore", "long.test", "TXT", ip=client).stdout
    got = world.run("host", "-W", "3", "-t", "A", "a.test", ip, ip=client).stdout
    assert got.endswith("a.test has address 192.0.2.7\n")


def test_dnsmasq_asks_another_dnsmasq(world: World) -> None:
    back = world.start(*DNSMASQ, *RECORDS, serving=53)
    front = world.start(*DNSMASQ, f"--server={back.ip}", serving=53)
    got = world.run("dig", "+short", "+time=3", "+tries=2", f"@{front.ip}", "a.test", "a.test", "AAAA")
    assert got.stdout.split() == ["192.0.2.7", "2001:db8::7"]


# -- several servers ---------------------------------------------------------------------------------------------------


def test_clients_spread_over_two_servers(switched: World) -> None:
    ip = switched.addresses.v4()
    server(switched, "one", ip)
    server(switched, "two", ip)
    got = switched.run(PYTHON, UDP, "ask", ip, "7000", "40").stdout.splitlines()
    assert len(got) == 40
    assert {line.split()[0] for line in got} == {"one", "two"}


def test_a_connected_client_goes_over_to_a_living_server(switched: World) -> None:
    ip = switched.addresses.v4()
    servers = {name: server(switched, name, ip) for name in ("one", "two")}
    client = switched.start(PYTHON, UDP, "follow", ip, "7000", stdin=subprocess.PIPE)
    say(client, "first\n")
    first = wait_output(client, rf"(one|two) \S+ \d+ first {re.escape(ip)} 7000")[1]
    other = ({"one", "two"} - {first}).pop()
    servers[first].stop(signal.SIGKILL)
    daemon = switched.daemon
    wait_until(lambda: len(daemon.servers(7000, ip)) == 1, "the dead server to be forgotten")
    say(client, "second\n")
    wait_output(client, rf"{other} \S+ \d+ second {re.escape(ip)} 7000")
    hang_up(client)
    assert client.wait() == 0


def test_authority_of_both_families_in_the_server_table(switched: World) -> None:
    """A dual-stack UDP socket serves both of its app's addresses, and ax says so."""
    v4, v6 = switched.addresses.v4(), switched.addresses.v6()
    server(switched, "one", f"{v4},{v6}", "::")
    rows = [row for row in switched.daemon.get("servers") if {authority(v4, 7000)} <= set(row["service_addrs"])]
    assert [(row["proto"], set(row["service_addrs"])) for row in rows] == [
        ("udp", {authority(v4, 7000), authority(v6, 7000)})
    ]
