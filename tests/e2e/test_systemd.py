"""The unit that is shipped, under a real systemd: what its lines leave possible, and what survives what."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from e2e.machine import PATIENCE, Installed, impossible
from e2e.services import Services
from e2e.test_resilience import Pair
from e2e.world import PROGRAMS, PYTHON, Switched, url, wait_output
from harness import Addresses, App, wait_until

WHY_NOT = impossible()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

CURL = ("curl", "-sS", "-g", "--max-time", "10")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Installed]:
    """In place of the one that other tests share: `switched` and `services` are on the machine."""
    with Installed() as one:
        yield one


def stored(daemon: Installed) -> int:
    """How many descriptors systemd keeps."""
    return int(daemon.machine.property("NFileDescriptorStore"))


def mirror(world: Switched, *options: str, ip: str | None = None) -> App:
    return world.start(PYTHON, PROGRAMS / "mirror.py", "server", "8080", ip=ip, listening=8080, options=options)


def process(daemon: Installed, pid: int) -> dict[str, str]:
    """proc_pid_status(5) of a process there."""
    lines = daemon.machine.run("cat", f"/proc/{pid}/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


# -- what the lines leave possible


def test_the_lines_are_in_force(daemon: Installed) -> None:
    """A line that systemd did not understand would be none."""
    told = subprocess.run(
        daemon.machine.enter("systemd-analyze", "verify", "--man=no", "appswitch.service"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    unknown = [line for line in told.stderr.splitlines() if "Unknown" in line]
    assert all("FileDescriptorStorePreserve" in line for line in unknown), unknown  # since 254
    assert daemon.machine.property("Type") == "notify"
    assert daemon.machine.property("StatusText").startswith("ax daemon ready")
    everything = process(daemon, 1)["CapBnd"]
    for name, pid in daemon.parts().items():
        seen = process(daemon, pid)
        assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2"), name
        assert seen["CapBnd"] == seen["CapEff"] != everything, name
        inside = ("nsenter", f"--target={pid}", "--mount", "--", "sh", "-c")
        writable = (
            'for one in /usr /etc /root /var/lib/appswitch /run/appswitch; do [ ! -w "$one" ] || echo "$one"; done'
        )
        assert daemon.machine.run(*inside, writable).split() == ["/var/lib/appswitch", "/run/appswitch"], name


def test_connections(switched: Switched, daemon: Installed) -> None:
    """Of apps with a namespace of their own, with an interface, in the host's, of another user; by address and name."""
    ip = f"{switched.addresses.v4()},{switched.addresses.v6()}"
    mirror(switched, "--name", "mirror", ip=ip)
    v4, v6 = ip.split(",")
    for options in ((), ("--interface", "eth0"), ("--new-netns=false",), ("--user", "nobody"), ("--transport", "tcp")):
        assert switched.run(*CURL, url(v4, 8080), options=options).stdout
    for where in (url(v6, 8080), url("mirror", 8080)):
        assert switched.run(*CURL, where, ip=f"{switched.addresses.v4()},{switched.addresses.v6()}").stdout
    own = switched.addresses.v4()
    told = json.loads(switched.run(*CURL, url("mirror", 8080), ip=own, options=("--dns-override",)).stdout)
    assert told["client"].endswith(own)


def test_datagrams(switched: Switched) -> None:
    server = switched.start(PYTHON, PROGRAMS / "udp.py", "serve", "0.0.0.0", "7000", "one", serving=7000)
    ask = (PYTHON, PROGRAMS / "udp.py", "ask", server.ip or "")
    for options in ((), ("--new-netns=false",), ("--user", "nobody")):
        assert switched.run(*ask, "7000", "1", options=options).stdout.startswith("one ")
    assert "ConnectionRefusedError" in switched.run(*ask, "7001", "1", status=1).stderr


def test_ports_of_the_host(switched: Switched, services: Services, daemon: Installed) -> None:
    """Exposed ones, those of external vservices, and --host-port the other way round."""
    options = ("--expose", "8080:8087", "--expose", "7000:7007")
    server = mirror(switched, *options)
    switched.start(PYTHON, PROGRAMS / "udp.py", "serve", "0.0.0.0", "7000", "one", options=options[2:], serving=7000)
    services.vservice("front", str(server.ip), ports="8090:8080", external=True)
    for port in (8087, 8090):
        assert daemon.machine.run(*CURL, url("127.0.0.1", port))
    asked = daemon.machine.run(PYTHON, str(PROGRAMS / "udp.py"), "ask", "127.0.0.1", "7007", "1")
    assert asked.startswith("one 127.0.0.1 ")
    assert switched.run(*CURL, url("127.0.0.1", 8087), options=("--host-port", "8087")).stdout


def test_first_bytes(switched: Switched, services: Services, daemon: Installed) -> None:
    """Of connections to apps, and to the outside, which the splicer carries."""
    server = mirror(switched)
    services.vservice("web", str(server.ip), ports="80:8080")
    outside = App(
        daemon.machine.enter(PYTHON, str(PROGRAMS / "mirror.py"), "outside", "8081"), switched.environment()
    )  # fmt: skip
    with outside:
        wait_until(lambda: daemon.machine.run("ss", "-Hltn", "sport = :8081"), "the machine's own server")
        l7 = [{"http.method": ["DELETE"]}]
        services.policy("no-delete", "deny", to=[{"networks": ["0.0.0.0/0"]}], l7=l7)
        for where, options in ((url(str(server.ip), 8080), ()), (url("127.0.0.1", 8081), ("--new-netns=false",))):
            assert switched.run(*CURL, where, options=options).stdout
            assert switched.run(*CURL, "-X", "DELETE", where, options=options, status=None).returncode != 0


def test_delegation(switched: Switched, services: Services) -> None:
    server = mirror(switched, "--name", "server")
    services.proxy("one", wants=[{"protocol": ["http"]}], peek={"milliseconds": 5000})
    web = services.vservice("web", str(server.ip), ports="80:8080", proxy="one")
    proxy = switched.start(sys.executable, PROGRAMS / "takes.py", "one", "accepts", options=("--name", "one"))
    wait_output(proxy, "ready")
    assert json.loads(switched.run(*CURL, url(web, path="/a/b")).stdout)["path"] == "/a/b"


# -- what is lost when something ends


@pytest.fixture(scope="module")
def configured(daemon: Installed, addresses: Addresses) -> Iterator[Callable[..., None]]:
    """Apps, names, an exposed port, a vservice and a policy that stay while one thing after the other ends.

    What is given checks them; ``brief``: only an old and a new connection.
    """
    with Switched(daemon, addresses) as world, Services(daemon, addresses) as services:
        pair = Pair(world)
        server = mirror(world, "--name", "mirror", "--expose", "8080:8088")
        web = services.vservice("web", str(server.ip), ports="80:8080")
        outcast = addresses.v4()
        services.policy("closed", "deny", from_={"networks": [f"{outcast}/32"]})

        def check(brief: bool = False) -> None:
            pair.check()
            if brief:
                return
            assert world.run(*CURL, url("web")).stdout
            assert world.run(*CURL, url(web)).stdout
            assert daemon.machine.run(*CURL, url("127.0.0.1", 8088))
            assert "Permission denied" in world.run("socat", "-", f"TCP:{server.ip}:8080", ip=outcast, status=1).stderr

        check()
        yield check
        pair.end()


def keeper(daemon: Installed) -> None:
    daemon.machine.systemctl("kill", "--signal=KILL", "--kill-who=main", "appswitch")


def everything(daemon: Installed) -> None:
    daemon.machine.systemctl("kill", "--signal=KILL", "--kill-who=all", "appswitch")


def one_of(name: str) -> Callable[[Installed], None]:
    def kill(daemon: Installed) -> None:
        daemon.machine.run("kill", "-KILL", str(daemon.parts()[name]))

    return kill


def upgrade(daemon: Installed) -> None:
    assert "is of version" in daemon.ax("daemon", "--upgrade", check=True).stdout


def by(command: str) -> Callable[[Installed], None]:
    return lambda daemon: daemon.machine.systemctl(command, "appswitch")


ENDS = {
    "keeper": (keeper, {"keeper"}),
    "switch": (one_of("switch"), {"switch"}),
    "control": (one_of("control"), {"control"}),
    "everything": (everything, {"keeper", "switch", "control"}),
    "restart": (by("restart"), {"keeper", "switch", "control"}),
    "reload": (by("reload"), set()),
    "upgrade": (upgrade, {"switch", "control"}),
}
"""What ends, and which processes are others after it."""


def processes(daemon: Installed) -> dict[str, int]:
    return {"keeper": int(daemon.machine.property("MainPID")), **daemon.parts()}


@pytest.mark.parametrize("what", ENDS)
def test_nothing_is_lost(daemon: Installed, configured: Callable[..., None], what: str) -> None:
    end, others = ENDS[what]
    before, kept = processes(daemon), stored(daemon)
    end(daemon)
    configured()
    daemon.wait_active()
    wait_until(lambda: stored(daemon) == kept, lambda: f"{kept} descriptors in the store, not {stored(daemon)}")
    wait_until(lambda: len(processes(daemon)) == 3, lambda: f"switch and control, not {processes(daemon)}")
    after = processes(daemon)
    assert {name for name in before if before[name] != after[name]} == others
    configured(brief=True)


def test_it_is_not_given_up(daemon: Installed, configured: Callable[..., None]) -> None:
    """systemd by itself gives up after five starts in ten seconds, and drops what it keeps."""
    for _ in range(6):
        before = daemon.machine.property("MainPID")
        keeper(daemon)
        wait_until(lambda before=before: daemon.machine.property("MainPID") not in ("0", before), "another keeper")
        daemon.wait_active()
    configured()


def test_a_mistake_in_its_options_can_be_mended(daemon: Installed, configured: Callable[..., None]) -> None:
    """A service that could not be started is tried again and again, and what is kept for it stays."""
    kept = stored(daemon)
    with daemon.machine.drop_in(
        "mistake", f"[Service]\nExecStart=\nExecStart={daemon.start_command} --no-such-option\n"
    ):
        refused = subprocess.run(
            daemon.machine.enter("systemctl", "restart", "appswitch"), capture_output=True, text=True, check=False
        )
        assert refused.returncode != 0
        wait_until(lambda: int(daemon.machine.property("NRestarts")) > 0, "it to be tried again", PATIENCE)
        assert "No such option '--no-such-option'" in daemon.output
        assert stored(daemon) == kept
    daemon.machine.systemctl("restart", "appswitch")
    configured()


def test_what_apps_no_longer_need_is_not_kept(daemon: Installed, switched: Switched) -> None:
    before = stored(daemon)
    server = mirror(switched, "--expose", "8080:8089")
    wait_until(lambda: stored(daemon) > before, lambda: f"more than {before} in the store")
    server.stop()
    wait_until(lambda: stored(daemon) <= before, lambda: f"{before} in the store, not {stored(daemon)}")


def test_stop(daemon: Installed, addresses: Addresses) -> None:
    """The last one here, for those of `configured` have no network after it either.

    It is the end for apps that run: docs/resilience.md, "Everything gone". What is configured is there again."""
    with Switched(daemon, addresses) as world, Services(daemon, addresses) as services:
        services.vservice("stays", addresses.v4())
        pair = Pair(world)
        pair.check()
        daemon.machine.systemctl("stop", "appswitch")
        assert stored(daemon) == 0
        pair.check(fresh=str(errno.ENOSYS))
        pair.end()
        daemon.machine.systemctl("start", "appswitch")
        assert "stays" in [one["metadata"]["name"] for one in daemon.get("vservices")]
        Pair(world).check()
