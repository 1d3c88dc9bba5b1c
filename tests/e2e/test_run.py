"""`ax run` itself: what of the caller reaches the program, and what of the program reaches the caller."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from e2e.world import PYTHON, Switched, World, wait_output
from harness import Addresses, App, Daemon, wait_until

OURS = 125
"""The exit status of `ax run` when it fails itself, as env(1) and containers have it."""


@pytest.mark.parametrize("status", [0, 1, 7, 126, 255])
def test_exit_status(switched: Switched, status: int) -> None:
    switched.run("sh", "-c", f"exit {status}", status=status)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT])
def test_death_by_signal(switched: Switched, number: signal.Signals) -> None:
    switched.run("sh", "-c", f"kill -{number.value} $$", status=-number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT])
def test_signals_reach_the_program(switched: Switched, number: signal.Signals) -> None:
    script = f'trap "echo caught; exit 3" {number.value}; echo ready; while :; do sleep 0.05; done'
    app = switched.start("bash", "-c", script)
    wait_output(app, "ready")
    app.send(number)
    assert app.wait() == 3
    assert "caught" in app.stdout


def test_a_program_that_does_not_exist(switched: Switched) -> None:
    got = switched.run("no-such-program", status=127)
    assert "no-such-program" in got.stderr
    assert "Traceback" not in got.stderr


def test_a_program_that_cannot_be_executed(switched: Switched, place: Path) -> None:
    (place / "plain").write_text("not a program")
    got = switched.run(place / "plain", status=126)
    assert str(place / "plain") in got.stderr
    assert switched.run(place, status=126).stderr, "a directory"


def test_no_program_at_all(switched: Switched) -> None:
    got = switched.run(status=None)
    assert got.returncode in {2, OURS}
    assert "COMMAND" in got.stderr.upper()


NO_ADDRESSES = """
10.1.2 300.1.1.1 10.0.0.1/24 example.com 10.0.0.1:80 0.0.0.0 127.0.0.1 224.0.0.1 255.255.255.255
:: ::1 fe80::g ff02::1 ::ffff:127.0.0.1
"""


@pytest.mark.parametrize("ip", [*NO_ADDRESSES.split(), ""])
def test_addresses_that_are_none(switched: Switched, ip: str) -> None:
    words = switched.daemon.command("run", "--ip", ip, "--", "echo", "started")
    with App(words, switched.environment()) as app:
        assert app.wait() in {2, OURS}
        assert "started" not in app.stdout
        assert "Traceback" not in app.stderr
        assert ip.strip() in app.stderr


def test_two_addresses_of_one_family(switched: Switched) -> None:
    got = switched.run("echo", "started", ip="10.1.1.1,10.1.1.2", status=None)
    assert got.returncode in {2, OURS}
    assert "started" not in got.stdout


def test_the_same_address_in_other_words(switched: Switched) -> None:
    """An IPv6 address may be written in many ways; it is one address."""
    server = switched.start("socat", "TCP6-LISTEN:7000,fork", "SYSTEM:echo $SOCAT_SOCKADDR", ip="FD77:0::00AB",
                            listening=7000)  # fmt: skip
    got = switched.run("socat", "-t10", "-", "TCP6:[fd77::ab]:7000", ip="fd77::cd")
    assert "ab" in got.stdout, server


def test_without_a_daemon(place: Path, daemon: Daemon) -> None:
    environment = daemon.environment({"AX_RUN_DIR": str(place / "nobody")})
    with App(daemon.command("run", "--no-start-daemon", "--", "echo", "started"), environment) as app:
        assert app.wait() == OURS
        assert "daemon" in app.stderr
        assert "started" not in app.stdout
        assert "Traceback" not in app.stderr
    assert not (place / "nobody").exists()


PROBE = r"""
import json, os, resource, signal, sys
status = dict(line.split(":\t") for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
print(json.dumps({
    "argv": sys.argv[1:],
    "cwd": os.getcwd(),
    "umask": os.umask(0),
    "environment": {k: v for k, v in os.environ.items() if k.startswith("TEST_")},
    "fds": sorted(os.listdir("/proc/self/fd"), key=int)[:-1],
    "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
    "signals": {k: status[k].strip() for k in ("SigBlk", "SigIgn", "SigCgt")},
    "limits": [resource.getrlimit(n) for n in range(16)],
    "nice": os.nice(0),
    "session": os.getsid(0) == os.getppid() or os.getsid(0) == os.getpid(),
    "group": os.getpgid(0) == os.getpid(),
    "stdin": os.fstat(0).st_mode,
    "capabilities": {k: status[k].strip() for k in ("CapInh", "CapPrm", "CapEff", "CapAmb")},
    "affinity": sorted(os.sched_getaffinity(0)),
}, indent=1))
"""


def test_the_program_inherits_what_it_would_without_ax(switched: Switched, place: Path) -> None:
    probe = [PYTHON, "-c", PROBE, "a b", "", "'\"$x\\", "--ip", "--", "é"]
    environment = switched.environment({"TEST_A": "1", "TEST_B": "two words\nand lines"})
    told = []
    for words in (probe, switched.command(probe, "10.9.8.7", (), "")):
        with App(words, environment, cwd=place) as app:
            assert app.wait() == 0, app
            told.append(app.stdout)
    assert told[0] == told[1]


def test_other_descriptors_are_passed_on(switched: Switched) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"inherited")
        file.flush()
        file.seek(0)
        number = file.fileno()
        words = switched.command(["bash", "-c", f"cat <&{number}"], "", (), "")
        got = subprocess.run(
            words, env=switched.environment(), pass_fds=[number], capture_output=True, check=True, timeout=15
        )
        assert got.stdout == b"inherited"


def test_pipes(switched: Switched) -> None:
    data = os.urandom(3 << 20).hex()
    assert switched.run("cat", input=data).stdout == data
    ax = " ".join(switched.daemon.command("run", "--"))
    pipeline = f"{ax} seq 100000 | {ax} grep 7 | {ax} wc -l; echo ${{PIPESTATUS[*]}}"
    got = subprocess.run(
        ["bash", "-c", pipeline], env=switched.environment(), capture_output=True, text=True, timeout=20, check=True
    )
    bare = subprocess.run("seq 100000 | grep 7 | wc -l", shell=True, capture_output=True, text=True, check=True).stdout
    assert got.stdout == bare + "0 0 0\n"


def test_a_writer_dies_of_sigpipe(switched: Switched) -> None:
    ax = " ".join(switched.daemon.command("run", "--"))
    got = subprocess.run(
        ["bash", "-c", f"{ax} yes | head -1; echo ${{PIPESTATUS[0]}}"],
        env=switched.environment(), capture_output=True, text=True, timeout=20, check=True, restore_signals=True,
    )  # fmt: skip
    assert got.stdout == "y\n141\n", got


def test_user(switched: Switched) -> None:
    got = switched.run("sh", "-c", "id -u; id -g; id -G; grep -c . /proc/self/status", user="nobody")
    assert got.stdout.split()[:2] == ["65534", "65534"]
    assert switched.run("id", "-u", user="4321:4322").stdout == "4321\n"
    assert switched.run("id", "-un", user="postgres").stdout == "postgres\n"
    expected = subprocess.run(["id", "-G", "postgres"], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(switched.run("id", "-G", user="postgres").stdout.split()) == sorted(expected)
    unknown = switched.run("true", user="no-such-user", status=None)
    assert unknown.returncode in {2, OURS}
    assert "no-such-user" in unknown.stderr


def test_an_empty_network_namespace(switched: Switched) -> None:
    got = switched.run("sh", "-c", "ip -o link; ip -4 -o address; ip route; readlink /proc/self/ns/net")
    links = [line for line in got.stdout.splitlines() if "link/" in line]
    assert len(links) == 1, "lo alone"
    assert "LOOPBACK,UP" in links[0]
    assert "inet 127.0.0.1/8" in got.stdout
    assert str(Path("/proc/self/ns/net").readlink()) not in got.stdout


def test_an_interface_with_the_apps_address(switched: Switched) -> None:
    v4, v6 = switched.addresses.v4(), switched.addresses.v6()
    got = switched.run("ip", "-o", "address", "show", "dev", "net0", ip=f"{v4},{v6}", options=["--interface", "net0"])
    assert f"inet {v4}/" in got.stdout
    assert f"inet6 {v6}/" in got.stdout
    assert "UP" in switched.run("ip", "link", "show", "dev", "net0", options=["--interface", "net0"]).stdout


def test_an_interface_name_that_is_too_long(switched: Switched) -> None:
    got = switched.run("echo", "started", options=["--interface", "x" * 16], status=None)
    assert got.returncode in {2, OURS}
    assert "started" not in got.stdout


@pytest.mark.parametrize("option", ["--no-new-netns", "--new-netns=false"])
def test_the_hosts_network_namespace(switched: Switched, option: str) -> None:
    """Same network, and still virtual addresses between apps."""
    here = str(Path("/proc/self/ns/net").readlink())
    if option == "--new-netns=false":
        got = switched.run("readlink", "/proc/self/ns/net", options=[option], status=None)
        assert got.returncode in {0, 2}, "where the word is known, it means the same"
    else:
        assert switched.run("readlink", "/proc/self/ns/net", options=[option]).stdout.strip() == here
        server = switched.start("socat", "TCP-LISTEN:7000,fork", "SYSTEM:echo $SOCAT_PEERADDR", options=[option],
                                listening=7000)  # fmt: skip
        client = switched.addresses.v4()
        for options in ([option], []):
            got = switched.run("socat", "-t10", "-", f"TCP:{server.ip}:7000", ip=client, options=options)
            assert got.stdout == f"{client}\n"


def test_without_an_address(switched: Switched) -> None:
    """An app without an address reaches those that have one, and may serve itself."""
    server = switched.start("socat", "TCP-LISTEN:7000,fork", "EXEC:echo served", listening=7000)
    assert switched.run("socat", "-t10", "-", f"TCP:{server.ip}:7000", ip="").stdout == "served\n"
    script = "socat TCP-LISTEN:7000 EXEC:'echo own' & until socat - TCP:127.0.0.1:7000 2>/dev/null; do sleep 0.05; done"
    assert switched.run("bash", "-c", script, ip="").stdout == "own\n"


def test_loopback_belongs_to_each_app(switched: Switched) -> None:
    """Two apps on one address listen on the same port of 127.0.0.1: neither sees the other."""
    ip = switched.addresses.v4()
    script = """
    socat TCP-LISTEN:7000,bind=127.0.0.1,fork "EXEC:echo $1" &
    until socat -u TCP:127.0.0.1:7000 - 2>/dev/null; do sleep 0.05; done
    for i in 1 2 3 4 5; do socat -u TCP:localhost:7000 -; done
    echo done; exec sleep infinity
    """
    apps = [switched.start("bash", "-c", script, "bash", word, ip=ip) for word in ("one", "two")]
    for app, word in zip(apps, ("one", "two"), strict=True):
        wait_output(app, "done")
        assert set(app.stdout.split()) == {word, "done"}
    switched.run("socat", "-u", f"TCP:{ip}:7000", "-", status=1)


def test_two_apps_share_an_address_by_ports(switched: Switched) -> None:
    ip = switched.addresses.v4()
    for port in (7000, 7001):
        switched.start("socat", f"TCP-LISTEN:{port},fork", f"EXEC:echo {port}", ip=ip, listening=port)
    for port in (7000, 7001):
        assert switched.run("socat", "-u", f"TCP:{ip}:{port}", "-").stdout == f"{port}\n"


def test_localhost_is_tried_in_both_families(switched: Switched) -> None:
    """A name with an IPv6 and an IPv4 address: the one where nobody listens is refused at once."""
    script = """
    socat TCP4-LISTEN:7000,fork SYSTEM:'read line; echo served' &
    until echo | socat - TCP4:127.0.0.1:7000 >/dev/null 2>&1; do sleep 0.05; done
    curl -sS --http0.9 --max-time 5 --resolve name:7000:::1,127.0.0.1 http://name:7000/
    kill $!
    """
    assert switched.run("bash", "-c", script).stdout == "served\n"


NOT_DUMPABLE = """if 1:
    import ctypes, socket, sys
    assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0  # PR_SET_DUMPABLE: others of the same user may not look inside
    print(socket.create_connection((sys.argv[1], 7000), 5).recv(100).decode(), end="")
"""


@pytest.mark.also("rootless")
def test_a_program_that_does_not_let_itself_be_read(world: World) -> None:
    """As ssh-agent and others with secrets in memory."""
    server = world.start("socat", "TCP-LISTEN:7000,fork", "EXEC:echo served", listening=7000)
    assert world.run(PYTHON, "-c", NOT_DUMPABLE, str(server.ip)).stdout == "served\n"


def test_nor_in_the_hosts_network_without_root(rootless_daemon: Daemon, addresses: Addresses) -> None:
    with Switched(rootless_daemon, addresses) as world:
        server = world.start("socat", "TCP-LISTEN:7000,fork", "EXEC:echo served", listening=7000)
        words = (PYTHON, "-c", NOT_DUMPABLE, str(server.ip))
        assert world.run(*words, options=["--no-new-netns"]).stdout == "served\n"


def test_labels_keep_apps_apart(switched: Switched) -> None:
    """A client reaches a service only where they share a label; --labels replaces the default."""
    server = switched.start("socat", "TCP-LISTEN:7000,fork", "EXEC:echo served", options=["--labels", "team=a"],
                            listening=7000)  # fmt: skip
    ask = ("socat", "-", f"TCP:{server.ip}:7000,connect-timeout=2")
    assert switched.run(*ask, options=["--labels", "team=a,other=x"]).stdout == "served\n"
    assert switched.run(*ask, options=["--labels", "team=b"], status=1).stdout == ""
    assert switched.run(*ask, status=1).stdout == ""


def test_inside_another_app(switched: Switched) -> None:
    """A second listener in one filter tree is refused by the kernel; the message says so."""
    inner = switched.daemon.command("run", "--no-start-daemon", "--", "echo", "inner")
    got = switched.run(*inner, status=None)
    assert got.returncode in {0, OURS}
    assert "Traceback" not in got.stderr
    if got.returncode:
        assert got.stderr.count("\n") == 1, got.stderr


def test_children_that_outlive_the_program_stay_connected(switched: Switched, place: Path) -> None:
    """`ax run` ends with its program; what the program left running is still the app."""
    ip = switched.addresses.v4()
    script = 'setsid socat TCP-LISTEN:7000,fork EXEC:"echo served" >/dev/null 2>&1 & echo $! >"$0"/pid'
    app = switched.start("bash", "-c", script, place, ip=ip)
    assert app.wait() == 0
    pid = int((place / "pid").read_text())
    try:

        def served() -> bool:
            return switched.run("socat", "-t10", "-", f"TCP:{ip}:7000", status=None).stdout == "served\n"

        wait_until(served, "the orphan to serve")
    finally:
        os.kill(pid, signal.SIGTERM)


def test_many_at_once(switched: Switched) -> None:
    apps = [switched.start("sh", "-c", "echo $0", str(n)) for n in range(20)]
    for n, app in enumerate(apps):
        assert app.wait(30) == 0
        assert app.stdout == f"{n}\n"
