"""DNS lookups a second beside dnsmasq, both on loopback: the server in control alone, asked as an app's sockets are.

The switch's part is played here: a socket at an address of loopback is handed to control for an app that runs. What it
costs an app to send and to receive is measured where datagrams are.
"""

from __future__ import annotations

import array
import contextlib
import os
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Set

import msgspec

from bench.cases import Run
from bench.node import Node, ax
from bench.pairing import Figure, ratios, take_turns
from bench.processes import Process, UnavailableError

NAME, DOMAIN, ADDRESS = "lookup", "appswitch.local", "10.92.0.1"
HOST = "127.0.0.1"
COUNT = 4000  # lookups a turn
READY = 5.0  # seconds
QUESTION = bytes.fromhex("0000 0100 0001 0000 0000 0000 00 0001 0001")  # the root's address
CASES = (
    # window, letters of mixed case, what
    (1, False, "one name, one lookup at a time"),
    (32, False, "one name, 32 lookups at a time"),
    (32, True, "one name in letters of mixed case, 32 at a time"),
)


def measure(run: Run) -> Iterator[Figure]:
    """Both servers know the name themselves. Whoever asks is on the same processors."""
    dnsmasq = shutil.which("dnsmasq", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if dnsmasq is None:
        raise UnavailableError("dnsmasq is not installed")
    with Node() as node:
        for pin, cpus in run.pins():
            os.sched_setaffinity(node.pids["control"], cpus)
            with contextlib.ExitStack() as stack:
                clients = {
                    "ax": stack.enter_context(_client(run, stack.enter_context(_app(node, cpus)), cpus)),
                    "direct": stack.enter_context(_client(run, stack.enter_context(_dnsmasq(dnsmasq, cpus)), cpus)),
                }
                for window, mixed, what in CASES:
                    rates = take_turns({side: _rate(one, window, mixed) for side, one in clients.items()}, run.turns)
                    yield Figure(
                        name=f"dns.{'mixed' if mixed else 'same'}.{window}.{pin}",
                        what=f"DNS: {what}; direct is dnsmasq",
                        unit="x",
                        samples=ratios(rates["ax"], rates["direct"]),
                        steady=pin == "pinned",
                        lower_is_better=False,
                        sides={side: statistics.median(rates[side]) for side in ("ax", "direct")},
                        side_unit="/s",
                    )


def _rate(client: Process, window: int, mixed: bool) -> Callable[[], float]:
    return lambda: COUNT / client.ask(f"lookups {COUNT} {window} {int(mixed)}")["took"] * 1e9


def _client(run: Run, port: int, cpus: Set[int]) -> Process:
    words = [run.programs["lookups"], HOST, str(port), f"{NAME}.{DOMAIN}"]
    return Process(words, os.environ, cpus)


@contextlib.contextmanager
def _app(node: Node, cpus: Set[int]) -> Iterator[int]:
    """The port at which the daemon answers an app that does nothing but be there, and have a name."""
    words = [*ax(), "run", "--no-start-daemon", "--name", NAME, "--ip", ADDRESS, "--", "sh", "-c", "echo up; exec cat"]
    with Process(words, node.environment, cpus) as app:
        app.line()
        (entry,) = node.get("apps")["apps"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind((HOST, 0))
            tcp.bind((HOST, 0))
            tcp.listen()
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.connect(str(node.run_dir / "dns.sock"))
                message = msgspec.msgpack.encode({"app_id": entry["app"]["id"], "address": HOST})
                fds = array.array("i", [udp.fileno(), tcp.fileno()])
                sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            port: int = udp.getsockname()[1]
        yield port


@contextlib.contextmanager
def _dnsmasq(program: str, cpus: Set[int]) -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
    words = [
        program, "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--no-resolv", "--no-hosts", "--user=",
        f"--port={port}", f"--listen-address={HOST}", "--bind-interfaces", "--log-facility=-",
        f"--host-record={NAME}.{DOMAIN},{ADDRESS}",
    ]  # fmt: skip
    with Process(words, os.environ, cpus) as server:
        _wait_for(server, port)
        yield port


def _wait_for(server: Process, port: int) -> None:
    """Until it answers: something, to a question that it knows no answer to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.connect((HOST, port))
        end = time.monotonic() + READY
        while time.monotonic() < end and server.running():
            with contextlib.suppress(OSError):
                sock.send(QUESTION)
                sock.recv(512)
                return
            time.sleep(0.01)  # nobody has the port yet, and that is said at once
    raise UnavailableError(f"dnsmasq does not answer: {server.errors().strip()}")
