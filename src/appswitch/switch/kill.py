"""Closing established connections that policies now forbid (`--kill`).

The switch keeps no copy of a connected socket, so whoever has one is looked for: in /proc, a few descriptors at a
time between other work. shutdown(2) on a duplicate (pidfd_getfd(2)) is what both ends see as the end of the connection.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch.model import ConnectionRow
from appswitch.switch.connections import Backends, ends, established

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

BATCH = 256  # descriptors that are looked at in one go
_BOTH = 2  # SHUT_RDWR


def kill_forbidden(switch: Switch, done: Callable[[tuple[ConnectionRow, ...]], None]) -> None:
    """Find them, close them, and tell which they were."""
    wanted = dict(_forbidden(switch))
    if not wanted:
        done(())
        return
    killed: dict[int, ConnectionRow] = {}
    sockets = _sockets()

    def some() -> None:
        batch = list(itertools.islice(sockets, BATCH))
        for pid, number, inode in batch:
            if inode in wanted and inode not in killed and _shut(pid, number, inode):
                killed[inode] = wanted[inode]
        if batch and len(killed) < len(wanted):
            switch.loop.after(0, some)
        else:
            done(tuple(killed.values()))

    some()


def _sockets() -> Iterator[tuple[int, int, int]]:
    """Process, number, inode (0: no socket) of every descriptor of the host."""
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        try:
            numbers = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for number in numbers:
            try:
                link = os.readlink(f"/proc/{pid}/fd/{number}")
            except OSError:
                continue
            yield pid, int(number), int(link[8:-1]) if link.startswith("socket:[") else 0


def _shut(pid: int, number: int, inode: int) -> bool:
    try:
        found = _kernel.fetch(_kernel.pidfd_open(pid, 0), number)
    except OSError:
        return False
    if isinstance(found, int) or os.fstat(found[0].fileno()).st_ino != inode:
        return False
    return _kernel.shutdown(found[0], _BOTH) == 0


def _forbidden(switch: Switch) -> Iterator[tuple[int, ConnectionRow]]:
    """What the first bytes were is not known any more: only a denial that does not depend on them counts."""
    known: Backends = {}
    for one in established(switch):
        client, server, port = ends(switch, one, known)
        if client.app_id != server.app_id and switch.policies.decide(client, server, port, "tcp").allowed is False:
            yield one.inode, ConnectionRow(
                client_app=one.client_app, server_app=one.server_app, proto="tcp", client=str(one.client),
                server=str(one.server), transport=one.transport,
            )  # fmt: skip
