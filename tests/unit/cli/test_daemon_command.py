"""``ax daemon`` up to the moment when it becomes the keeper."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from appswitch import networks, paths
from appswitch.cli import daemon, node
from appswitch.kernel import features


class Ax:
    """Runs the command; what the keeper would get is in ``keeper``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keeper: dict[str, str] | None = None
        monkeypatch.setattr(daemon, "become_keeper", self._become)
        for name in [name for name in os.environ if name.startswith("AX_")]:
            monkeypatch.delenv(name)

    def _become(self, environment: dict[str, str]) -> None:
        self.keeper = {key: value for key, value in environment.items() if key.startswith("AX_")}

    def __call__(self, *words: str, **env: str) -> Result:
        self.keeper = None
        return CliRunner().invoke(daemon.command, list(words), env=env, prog_name="ax daemon")


@pytest.fixture
def ax(monkeypatch: pytest.MonkeyPatch) -> Ax:
    monkeypatch.setattr(daemon, "check_features", lambda: None)
    return Ax(monkeypatch)


def test_defaults(ax: Ax, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon.platform, "node", lambda: "host-1")
    monkeypatch.setattr(daemon.node, "node_ips", lambda given: [f"v4 of {given}", "v6"])
    monkeypatch.setattr(daemon.hostnet, "networks", lambda: [ipaddress.ip_network("10.250.7.0/24")])
    monkeypatch.setattr(daemon.hostnet, "versions", lambda: (4, 6))
    done = ax("--run-dir", "/r")
    assert done.output == ""
    assert ax.keeper == {
        "AX_RUN_DIR": "/r", "AX_NODE_NAME": "host-1", "AX_NODE_IP": "v4 of None,v6", "AX_CLUSTER": "appswitch",
        "AX_PORTS": "40000-60000", "AX_REST_PORT": "6664", "AX_TRANSPORT": "unix", "AX_IDLE_EXIT": "0",
        "AX_DNS": "1", "AX_DNS_DOMAIN": "appswitch.local",
        "AX_POOLS": "10.199.0.0/16,fd61:7070::/64", "AX_POOLS_GIVEN": "0",
        "AX_USER_NETWORKS": networks.DEFAULT_USER_NETWORKS, "AX_STATE_DIR": "/r", "AX_CLEAN": "0",
        "AX_LOG_FORMAT": "console", "AX_LOG_LEVEL": "info",
    }  # fmt: skip


def test_all_options(ax: Ax, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x" * 16)
    done = ax(
        "--run-dir", "r", "--node-name", "n.example", "--node-interface", "127.0.0.1", "--cluster", "c", "--ports",
        "50000,40000-40010", "--rest-port", "0", "--rest-token-file", str(token), "--transport", "tcp", "--idle-exit",
        "0.5", "--log-format", "json", "--log-level", "debug", "--no-dns", "--dns-domain", "Apps.Example.",
        "--dns-servers", "10.0.0.2, [fd00:0::2]:5353,fd00::3", "--pools", "10.99.0.0/16, FD99::/64",
        "--user-networks", "10.0.0.0/8,192.0.2.1", "--state-dir", "s", "--clean",
    )  # fmt: skip
    assert done.output == ""
    assert ax.keeper == {
        "AX_RUN_DIR": str(Path("r").absolute()), "AX_NODE_NAME": "n.example", "AX_NODE_IP": "127.0.0.1",
        "AX_CLUSTER": "c", "AX_PORTS": "40000-40010,50000", "AX_REST_PORT": "0", "AX_REST_TOKEN_FILE": str(token),
        "AX_TRANSPORT": "tcp", "AX_DNS": "0", "AX_DNS_DOMAIN": "apps.example",
        "AX_DNS_SERVERS": "10.0.0.2:53,[fd00::2]:5353,[fd00::3]:53",
        "AX_POOLS": "10.99.0.0/16,fd99::/64", "AX_POOLS_GIVEN": "1", "AX_USER_NETWORKS": "10.0.0.0/8,192.0.2.1/32",
        "AX_IDLE_EXIT": "0.5", "AX_LOG_FORMAT": "json", "AX_LOG_LEVEL": "debug",
        "AX_STATE_DIR": str(Path("s").absolute()), "AX_CLEAN": "1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pools", "10.1.2.3/16"], "10.1.0.0/16 is the network, 10.1.2.3 the address"),
        (["--pools", "10.1.0.0/16,10.0.0.0/8"], "10.0.0.0/8 overlaps 10.1.0.0/16, another pool"),
        (["--pools", "10.1.0.0/30"], "is too small for a pool"),
        (["--pools", "192.168.0.0/16"], "192.168.0.0/16 overlaps 192.168.7.0/24, a network of this host"),
        (["--pools", "x"], "'x' is not a network"),
        (["--user-networks", "10.0.0.1/8"], "10.0.0.0/8 is the network"),
        (["--user-networks", ","], "is not a list of networks"),
    ],
)
def test_bad_networks(ax: Ax, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str) -> None:
    monkeypatch.setattr(daemon.hostnet, "networks", lambda: [ipaddress.ip_network("192.168.7.0/24")])
    done = ax("--run-dir", "/r", *words)
    assert (done.exit_code, ax.keeper) == (2, None)
    assert said in " ".join(done.output.split()), done.output


def test_a_host_with_networks_everywhere(ax: Ax, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = list(map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))
    monkeypatch.setattr(daemon.hostnet, "networks", lambda: everything)
    done = ax("--run-dir", "/r")
    assert (done.exit_code, ax.keeper) == (1, None)
    assert "name one with --pools" in done.output


def test_every_option_comes_from_the_environment_too(ax: Ax, tmp_path: Path) -> None:
    for param in daemon.command.params:
        assert isinstance(param, click.Option)
        if param.name == "upgrading":  # it is something else to do
            continue
        assert param.envvar == f"AX_{param.opts[0][2:].replace('-', '_').upper()}"
    done = ax(AX_RUN_DIR="/r", AX_PORTS="1024", AX_CLUSTER="env", AX_IDLE_EXIT="7", AX_NODE_INTERFACE="127.0.0.1")
    assert done.output == ""
    assert ax.keeper is not None
    assert (ax.keeper["AX_PORTS"], ax.keeper["AX_CLUSTER"], ax.keeper["AX_IDLE_EXIT"]) == ("1024", "env", "7")


def test_command_line_then_environment_then_file(ax: Ax, tmp_path: Path) -> None:
    file = tmp_path / "ax.toml"
    file.write_text('cluster = "file"\nnode-name = "file"\nports = ["1024-1030", 2000]\nrest_port = 0\nidle-exit = 5\n')
    done = ax("--config", str(file), "--cluster", "line", AX_NODE_NAME="env", AX_CLUSTER="env", AX_RUN_DIR="/r")
    assert done.output == ""
    assert ax.keeper is not None
    assert (ax.keeper["AX_CLUSTER"], ax.keeper["AX_NODE_NAME"]) == ("line", "env")
    assert (ax.keeper["AX_PORTS"], ax.keeper["AX_REST_PORT"], ax.keeper["AX_IDLE_EXIT"]) == ("1024-1030,2000", "0", "5")
    assert ax(AX_CONFIG=str(file), AX_RUN_DIR="/r").output == ""
    assert ax.keeper["AX_CLUSTER"] == "file"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("frobnicate = 'x'", "there is no option 'frobnicate'; there are clean, cluster, dns, dns-domain,"),
        ("config = 'x'", "there is no option 'config'"),
        ("cluster =", "Invalid value"),
        ("ports = 'x'", "'x' is neither a port nor a range"),
        ("transport = 'udp'", "'udp' is not one of 'unix', 'tcp'"),
        ("rest-port = 70000", "'70000' is neither a port, nor 0"),
    ],
)
def test_bad_files(ax: Ax, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "ax.toml"
    file.write_text(text)
    done = ax("--config", str(file))
    assert done.exit_code == 2
    assert said in done.output
    assert ax.keeper is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", "/nonexistent"], "/nonexistent: No such file or directory"),
        (["--ports", ""], "no port at all"),
        (["--ports", "5-4"], "'5-4' is not a range of ports from 1 to 65535"),
        (["--ports", "0"], "'0' is not a range"),
        (["--ports", "65536"], "'65536' is not a range"),
        (["--ports", "1-2-3"], "'1-2-3' is neither a port nor a range of ports such as 40000-60000"),
        (["--rest-port", "-1"], "'-1' is neither a port, nor 0 (no TCP), nor auto"),
        (["--node-name", "a b"], "'a b' is not a host name"),
        (["--cluster", "-"], "'-' is not a host name"),
        (["--idle-exit", "-1"], "x>=0"),
        (["--rest-token-file", "/nonexistent"], "'/nonexistent' does not exist"),
        (["--dns-domain", "a..b"], "'a..b' is not a DNS name"),
        (["--dns-domain", ""], "'' is not a DNS name"),
        (["--dns-domain", "a" * 63 + "." + "b" * 63 + "." + "c" * 63], "has 191 characters"),
        (["--dns-domain", "in-addr.arpa"], "has a meaning of its own"),
        (["--dns-servers", "10.0.0.2,,"], "'' is not a name server"),
        (["--dns-servers", "resolver.example"], "give IP, IPV4:PORT or [IPV6]:PORT"),
        (["--dns-servers", "10.0.0.2:0"], "'10.0.0.2:0': nobody can be asked there"),
        (["--dns-servers", "[10.0.0.2]:53"], "'[10.0.0.2]:53' is not a name server"),
        (["--dns-servers", "0.0.0.0"], "nobody can be asked there"),
        (["--web"], "No such option"),
        (["extra"], "unexpected extra argument"),
    ],
)
def test_mistakes(ax: Ax, words: list[str], said: str) -> None:
    done = ax(*words)
    assert done.exit_code == 2
    assert said in done.output
    assert ax.keeper is None


def test_no_such_interface(ax: Ax) -> None:
    done = ax("--node-interface", "nope0")
    assert done.exit_code == 1
    assert "'nope0' is neither an IP address nor an interface of this host (" in done.output
    assert "lo" in done.output


def test_an_old_kernel(ax: Ax, monkeypatch: pytest.MonkeyPatch) -> None:
    uname = os.uname()
    old = os.uname_result((uname.sysname, uname.nodename, "5.10.0-28-amd64", uname.version, uname.machine))
    monkeypatch.setattr(os, "uname", lambda: old)
    done = ax()
    assert done.exit_code == 1
    assert "this is Linux 5.10.0-28-amd64, and AppSwitch needs 5.14 or newer; `ax doctor` says for what" in done.output
    assert ax.keeper is None


def test_a_missing_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    found = features.Feature("kcmp", False, False, "3.5", "d", "m")
    missing = features.Feature("pidfd_getfd", False, True, "5.6", "refused", "m")
    monkeypatch.setattr(features, "probe", lambda *, only_required: [found, missing] if only_required else [])
    ax = Ax(monkeypatch)
    done = ax()
    assert done.exit_code == 1
    assert "  pidfd_getfd (Linux 5.6): refused\n" in done.output
    assert "See `ax doctor`" in done.output
    assert ax.keeper is None


def test_help(ax: Ax) -> None:
    done = ax("--help")
    assert done.exit_code == 0
    for word in ("AX_PORTS", "40000-60000", "/run/appswitch", "Examples:", "SIGHUP"):
        assert word in done.output


# --- node ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.18.44-fc-v657", (6, 18)), ("5.14.0", (5, 14)), ("5.4", (5, 4)), ("10.0-rc1", (10, 0)), ("odd", (0, 0))],
)
def test_kernel_version(release: str, version: tuple[int, int]) -> None:
    assert node.kernel_version(release) == version


def test_kernel_floor() -> None:
    node.check_kernel("5.14.0-1")
    node.check_kernel("6.1")
    node.check_kernel()
    for old in ("5.13.19", "4.18.0-553.el8", "nonsense"):
        with pytest.raises(node.NodeError):
            node.check_kernel(old)


def test_node_ips_of_the_default_routes() -> None:
    for address in node.node_ips(None):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))


def test_node_ips_without_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.socket, "socket", _refuse)
    assert node.node_ips(None) == ["127.0.0.1"]


def test_node_ips() -> None:
    assert node.node_ips("127.0.0.1") == ["127.0.0.1"]
    assert node.node_ips("lo")[0] == "127.0.0.1"


@pytest.mark.parametrize("given", ["203.0.113.77", "0.0.0.0", "2001:db8::77"])
def test_not_the_nodes_ip(given: str) -> None:
    with pytest.raises(node.NodeError, match=given):
        node.node_ips(given)


def test_interface_with_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["fe800000000000000000000000000001 01 40 20 80 lo", "fd000000000000000000000000000005 01 40 00 80 lo"]
    monkeypatch.setattr(node, "_if_inet6", lambda: lines)
    assert node.node_ips("lo") == ["127.0.0.1", "fd00::5"]
    monkeypatch.setattr(node.fcntl, "ioctl", _refuse)
    assert node.node_ips("lo") == ["fd00::5"]
    monkeypatch.setattr(node, "_if_inet6", lambda: lines[:1])
    with pytest.raises(node.NodeError, match="interface lo has no address"):
        node.node_ips("lo")


def _refuse(*_: Any) -> bytes:
    raise OSError


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("40000-60000", "40000-60000"),
        (" 5000 , 4000-4001", "4000-4001,5000"),
        ("4000-4005,4003-4010,4011", "4000-4011"),
        ("2000-2000", "2000"),
        ("1024-65535,3000", "1024-65535"),
    ],
)
def test_ports(text: str, made: str) -> None:
    assert node.ports(text) == made
    assert node.ports(made) == made


def test_low_ports_are_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert node.ports("80,1024") == "80,1024"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(node.NodeError, match="port 80: only root"):
        node.ports("80,1024")


@pytest.mark.parametrize("uid", [0, 1000])
def test_where_state_is_kept(ax: Ax, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uid: int) -> None:
    """In the usual place only for the daemon in the usual place."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(paths, "SYSTEM_STATE", str(tmp_path / "lib"))
    usual = str(tmp_path / "lib") if uid == 0 else str(tmp_path / "home" / "appswitch")
    env = {"XDG_STATE_HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path)}

    def state(*words: str, **more: str) -> str:
        done = ax(*words, **env, **more)
        assert ax.keeper is not None, done.output
        return ax.keeper["AX_STATE_DIR"]

    assert state() == usual
    assert Path(usual).stat().st_mode & 0o777 == 0o700
    place = paths.SYSTEM if uid == 0 else f"{tmp_path}/appswitch"
    assert state("--run-dir", place) == usual
    assert state("--run-dir", "/r") == "/r"
    assert state(AX_RUN_DIR="/r") == "/r"
    assert state("--run-dir", "/r", "--state-dir", "/s") == state(AX_STATE_DIR="/s") == "/s"
    monkeypatch.setattr(paths, "SYSTEM_STATE", "/proc/none")
    env["XDG_STATE_HOME"] = "/proc/none"
    assert state() == place
    assert "cannot keep state in /proc/none" in ax(**env).output
