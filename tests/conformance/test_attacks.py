"""Ways to where policy says no (programs/hostile.c): as root and as another user, with Landlock and without.

What each attack comes to is in `EXPECTED`; whom it reached, those say who must not be reached. SECURITY.md tells why.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest
from harness import App, Daemon, Rootless, wait_until

PROGRAMS = Path(__file__).resolve().parent / "programs"
DENIED = "10.1.9.1"
KINDS = ("root", "root, no Landlock", "user", "user, no Landlock")
# Without Landlock a thread that swaps descriptors while the kernel makes a call of a Unix socket may get through.
RACES = frozenset(("connect_race", "shared_table_race", "any_call"))

_NO = ("ECONNREFUSED", "EACCES")
EXPECTED: dict[str, tuple[str, ...]] = {
    "plain": _NO,
    "mptcp": ("EPROTONOSUPPORT",),
    "sctp": ("EPROTONOSUPPORT",),
    "sctp_seqpacket": ("EPROTONOSUPPORT", "ESOCKTNOSUPPORT"),
    "smc": ("EAFNOSUPPORT",),
    "bound_to_device": _NO,
    "host_socket_bound_to_device": _NO,
    "vsock": ("EAFNOSUPPORT",),
    "raw": ("alone", "EPERM", "ENETUNREACH"),
    "packet": ("alone", "EPERM"),
    "netlink": ("alone",),
    "fastopen": ("refused",),
    "fastopen_connect": _NO,
    "host_fastopen_connect": _NO,
    "reconnect": _NO,
    "received": _NO,
    "stolen": ("EPERM",),
    "address_race": ("done",),
    "connect_race": ("done",),
    "shared_table_race": ("done",),
    "fastopen_race": ("done",),
    "fastopen_race_udp": ("done",),
    "bind_race": ("done",),
    "any_call": ("done",),
    "uring": ("ENOSYS",),
    "by_int80": ("ENOSYS",),
    "by_x32": ("ENOSYS",),
    "filter_allows": _NO,
    "filter_answers": ("ENOTCONN",),  # "connected", to nobody
    "filter_notifies": ("ENOSYS",),
    "filter_listens": ("EBUSY",),
    "filter_traces": _NO,
    "traced": _NO,
    "traces_another": ("EPERM",),
    "enters_namespace": ("EPERM", "EACCES"),
    "makes_namespace": _NO,
    "forged_token": ("refused",),
    "garbage": ("rest.sock attach.sock delegate.sock",),
    "rewrites_policy": ("403",),
}
# Root is no boundary: it administrates, and only Landlock keeps it from looking into others. Its calls are decided all
# the same.
OF_ROOT = {
    "garbage": ("rest.sock attach.sock switch.sock delegate.sock dns.sock notify.sock",),
    "rewrites_policy": ("201",),
}
OF_ROOT_ALONE = {"stolen": ("TAKEN",), "traces_another": ("TAKEN",), "enters_namespace": _NO}
# What must reach its target where nothing stops it, or the attack is none.
BARE = (
    "plain", "bound_to_device", "fastopen", "fastopen_connect", "reconnect", "received", "connect_race",
    "shared_table_race", "fastopen_race", "filter_allows", "traced",
)  # fmt: skip

SERVE = """
import socket
server = socket.create_server(("", 80))
while True:
    with server.accept()[0] as client:
        print("reached by", client.recv(100).decode() or "somebody", flush=True)
"""


class Witness:
    """The host's servers, in a thread: one that nobody may reach, one that apps may, one that gives sockets away."""

    def __init__(self, place: Path) -> None:
        self.reached: list[str] = []  # what those who came to the first said
        self.helper = str(place / "helper")
        self._closed, self._listeners = False, [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self._listeners.append(socket.socket(socket.AF_UNIX))
        self._listeners[2].bind(self.helper)
        Path(self.helper).chmod(0o777)
        self._listeners[2].listen()
        self.denied, self.open = (one.getsockname()[1] for one in self._listeners[:2])
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._wake.close()
        self._thread.join()

    def _serve(self) -> None:
        handlers: list[Callable[[socket.socket], None]] = [self._note, lambda _client: None, _give]
        with ExitStack() as stack, selectors.DefaultSelector() as ready:
            for listener, handler in zip(self._listeners, handlers, strict=True):
                ready.register(stack.enter_context(listener), selectors.EVENT_READ, handler)
            ready.register(stack.enter_context(self._woken), selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    if key.data is None:
                        return
                    assert isinstance(key.fileobj, socket.socket)
                    with key.fileobj.accept()[0] as client:
                        key.data(client)

    def _note(self, client: socket.socket) -> None:
        client.settimeout(1)
        said = b""
        with contextlib.suppress(OSError):
            said = client.recv(100)
        self.reached.append(said.decode() or "somebody")


def _give(client: socket.socket) -> None:
    with socket.socket() as gift:
        socket.send_fds(client, [b"x"], [gift.fileno()])


class Outcome(NamedTuple):
    """What became of all attacks of one attacker."""

    kind: str
    told: dict[str, str]
    reached: list[str]  # by which attacks somebody was reached

    def expected(self, attack: str) -> tuple[str, ...]:
        """What the attack may come to."""
        wanted = dict(EXPECTED)
        if self.kind.startswith("root"):
            wanted |= OF_ROOT | (OF_ROOT_ALONE if "no Landlock" in self.kind else {})
        return wanted[attack]

    @property
    def lost(self) -> frozenset[str]:
        """The attacks against which interception alone is no boundary."""
        return RACES | {"somebody"} if "no Landlock" in self.kind else frozenset()


class Ground:
    """Where attacks take place: an app that nobody may reach, servers of the host's, and the attacker's program."""

    def __init__(self, stack: ExitStack, daemon: Daemon, rootless: Rootless, program: str) -> None:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="axt-way-", dir="/tmp")))
        place.chmod(0o755)
        self._daemon, self._rootless = daemon, rootless
        self._victim = stack.enter_context(
            daemon.spawn(sys.executable, "-c", SERVE, ip=DENIED, labels="zone=hidden", listening=80)
        )
        self._witness = stack.enter_context(Witness(place))
        ports = str(self._witness.denied), str(self._witness.open)
        self._words = [program, DENIED, "80", *ports, self._witness.helper, str(self._victim.pid), str(daemon.run_dir)]

    def attack(self, kind: str) -> Outcome:
        """All attacks by one attacker, one after the other."""
        user = self._rootless if kind.startswith("user") else None
        options = ("--egress", "deny", "--host-port", str(self._witness.open), "--ip", "10.1.9.2")
        python = user.python if user else sys.executable
        words = [python, "-m", "appswitch.cli", "run", *options, "--", *self._words]
        with self._run(words, user) as attacker:
            assert attacker.wait(90) == 0, attacker
        assert self._daemon.rest("GET", "/v1/sockets")[0] == 200
        reached = [line.removeprefix("reached by ") for line in self._victim.stdout.splitlines()]
        return Outcome(kind, _told(attacker), reached + self._witness.reached)

    def bare(self, attack: str) -> bool:
        """One attack with nothing that stops it: whether it reaches somebody."""
        own, port = "127.0.0.1", str(self._witness.denied)  # without ax a virtual address could be anybody's
        with self._run([self._words[0], own, port, *self._words[3:], attack], None) as attacker:
            assert attacker.wait(30) == 0, attacker
        wait_until(lambda: attack in self._witness.reached, lambda: str(attacker), 5)
        return _told(attacker)[attack] == "REACHED"

    def _run(self, words: list[str], user: Rootless | None) -> App:
        environment = self._daemon.environment(user.environment() if user else None)
        return App(words, environment, cwd=self._rootless.home, prepare=user.become if user else None)


def _told(attacker: App) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in attacker.stdout.splitlines())


@pytest.fixture(scope="module")
def program() -> Iterator[str]:
    """The attacker, where every user can run it."""
    with tempfile.TemporaryDirectory(prefix="axt-hostile-", dir="/tmp") as place:
        Path(place).chmod(0o755)
        words = ["cc", "-Wall", "-Wextra", "-O1", "-pthread", "-o", f"{place}/hostile", PROGRAMS / "hostile.c"]
        subprocess.run(words, check=True, timeout=60)
        yield f"{place}/hostile"


@pytest.fixture(scope="module", params=KINDS)
def outcome(request: pytest.FixtureRequest, rootless: Rootless, program: str) -> Outcome:
    """Every attack by one kind of attacker."""
    kind = str(request.param)
    with Daemon(env={"AX_LANDLOCK": "0"} if "no Landlock" in kind else None) as daemon, ExitStack() as stack:
        return Ground(stack, daemon, rootless, program).attack(kind)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
@pytest.mark.parametrize("attack", EXPECTED)
def test_attack(outcome: Outcome, attack: str) -> None:
    """It comes to what it should, and nobody is reached."""
    if attack not in outcome.lost:
        assert outcome.told[attack] in outcome.expected(attack)
        assert attack not in outcome.reached


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_nobody_was_reached(outcome: Outcome) -> None:
    """Not by anything that did not say what it is either."""
    assert set(outcome.reached) <= outcome.lost
    assert set(outcome.told) == set(EXPECTED)


def test_attacks_work(daemon: Daemon, rootless: Rootless, program: str) -> None:
    """Where nothing stops them they reach their target: a test that could not fail would tell nothing."""
    with ExitStack() as stack:
        ground = Ground(stack, daemon, rootless, program)
        assert [attack for attack in BARE if not ground.bare(attack)] == []
