"""OpenSSH: a server that forks and executes itself for each connection, drops privileges, and opens terminals."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e.world import World, authority
from harness import App

CONF = """
HostKey {place}/host
PidFile {place}/sshd.pid
AuthorizedKeysFile {place}/user.pub
ListenAddress {listen}
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
PermitRootLogin yes
LogLevel VERBOSE
Subsystem sftp internal-sftp
"""


@dataclass
class Ssh:
    world: World
    place: Path
    server: App

    def options(self) -> list[str]:
        return ["-F", "none", "-i", f"{self.place}/user", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10",
                "-o", f"UserKnownHostsFile={self.place}/known"]  # fmt: skip

    def words(self, *command: str) -> list[str]:
        return ["ssh", *self.options(), f"root@{self.server.ip}", *command]


def start(world: World, place: Path, ip: str, port: int = 22) -> Ssh:
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name], check=True)
    host = (place / "host.pub").read_text()
    (place / "known").write_text(f"{ip} {host}")
    (place / "sshd_config").write_text(
        CONF.format(place=place, listen=authority("::" if ":" in ip else "0.0.0.0", port))
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # what the package's unit makes at boot
    server = world.start("/usr/sbin/sshd", "-D", "-e", "-f", place / "sshd_config", ip=ip, listening=port)
    return Ssh(world, place, server)


@pytest.fixture
def ssh(world: World, place: Path) -> Ssh:
    return start(world, place, world.addresses.v4())


def test_a_command_its_status_and_its_view_of_the_connection(world: World, ssh: Ssh) -> None:
    client = world.addresses.v4()
    got = world.run(*ssh.words("echo $SSH_CONNECTION; exit 7"), ip=client, status=7)
    seen = got.stdout.split()
    assert (seen[0], seen[2:]) == (client, [ssh.server.ip, "22"])
    assert f"Accepted publickey for root from {client} port {seen[1]}" in ssh.server.stderr


def test_standard_input_and_output_are_carried(world: World, ssh: Ssh) -> None:
    data = os.urandom(4 << 20).hex()
    got = world.run(*ssh.words("sha256sum"), input=data)
    assert got.stdout.split()[0] == hashlib.sha256(data.encode()).hexdigest()


def test_a_terminal(world: World, ssh: Ssh) -> None:
    got = world.run(*ssh.words()[:1], "-tt", *ssh.words("tty; stty size")[1:])
    assert got.stdout.startswith("/dev/pts/")


def test_files_are_copied(world: World, ssh: Ssh, place: Path) -> None:
    (place / "source").write_bytes(content := os.urandom(3 << 20))
    world.run("scp", *ssh.options(), place / "source", f"root@{ssh.server.ip}:{place}/copy")
    assert (place / "copy").read_bytes() == content


def test_forwarded_connections(world: World, ssh: Ssh) -> None:
    """-W: the server connects on behalf of the client, here to itself by its virtual address."""
    words = ssh.words()
    got = world.run(*words[:-1], "-W", f"{ssh.server.ip}:22", words[-1], status=None)
    assert got.stdout.startswith("SSH-2.0-OpenSSH")


def test_a_tunnel_from_the_clients_own_loopback(world: World, ssh: Ssh) -> None:
    """-L: the client listens, too; sshd connects onward for each connection."""
    back = world.start("socat", "TCP-LISTEN:7000,fork", "EXEC:echo through the tunnel", listening=7000)
    words = ssh.words()
    tunnel = shlex.join([*words[:-1], "-N", "-L", f"127.0.0.1:9000:{back.ip}:7000", words[-1]])
    script = f"{tunnel} & until socat -u TCP:127.0.0.1:9000 - 2>/dev/null; do sleep 0.05; done; kill $!; wait"
    assert world.run("bash", "-c", script).stdout == "through the tunnel\n"


def test_ipv6(world: World, place: Path) -> None:
    ssh = start(world, place, world.addresses.v6())
    client = world.addresses.v6()
    got = world.run(*ssh.words("echo $SSH_CLIENT"), ip=client)
    assert got.stdout.startswith(f"{client} ")
