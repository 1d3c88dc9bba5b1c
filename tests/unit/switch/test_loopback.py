"""A host that has IPv6 and no ::1: what the switch listens on for its own sake is on 127.0.0.1 then."""

from __future__ import annotations

import os
import subprocess
import sys

PLACE = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
WITHOUT = """
import errno, mmap, os, pathlib, socket, subprocess, tempfile
pathlib.Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").write_text("1")
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
from tests.unit.switch.fake import FakeSwitch
from appswitch import _kernel
from appswitch.address import LOOPBACK4
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET6
from appswitch.switch.doors import Doors
from appswitch.switch.lobby import Lobby
from appswitch.switch.waiting import Waiting
from tests.unit.switch.fake import Named

fake = FakeSwitch()
with tempfile.TemporaryDirectory() as place:
    os.chdir(place)
    lobby, waiting = Lobby(fake.loop, fake.keep, {}, lambda *_: None), Waiting(fake)
    doors = Doors(fake.loop, [range(40000, 40010)], None, None, lambda _: None, Named(judges=False), fake.keeping)
    service = fake.listen(fake.app(1, "10.0.0.1"), 80)
    door = doors.inside(service, AF_INET6)
    places = {"lobby": lobby.address(AF_INET6), "room": waiting._room(AF_INET6), "door": door}
    for name, where in places.items():
        assert where.ip == LOOPBACK4, (name, where)
        client = _kernel.socket(AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
        error = _kernel.connect(client, sockaddr.encode(AF_INET6, where))
        assert error in (0, errno.EINPROGRESS), (name, errno.errorcode[error])
    os.chdir("/")
print("as it should be")
"""


def test_without_an_ipv6_loopback_address() -> None:
    done = subprocess.run(
        [*PLACE, sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "as it should be\n", done.stderr
