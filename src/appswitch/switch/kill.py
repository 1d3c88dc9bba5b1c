"""Closing established connections that policies now forbid (`--kill`).

The switch keeps no copy of a connected socket, so whoever has one is looked for: in /proc, a few descriptors at a
time between other work. shutdown(2) on a duplicate (pidfd_getfd(2)) is what both ends see as the end of the connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch.model import ConnectionRow
from appswitch.switch.connections import Backends, ends, established
from appswitch.switch.pieces import every, in_pieces

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

BATCH = 256  # descriptors that are looked at in one go
_BOTH = 2  # SHUT_RDWR


def kill_forbidden(
    switch: Switch, done: Callable[[tuple[ConnectionRow, ...]], None], failed: Callable[[Exception], None]
) -> None:
    """Find them, close them, and tell which they were; or what went wrong meanwhile."""
    in_pieces(switch.loop, _kill(switch), done, failed)


def _kill(switch: Switch) -> Generator[None, None, tuple[ConnectionRow, ...]]:
    wanted: dict[int, ConnectionRow] = {}
    for _ in every(BATCH, _forbidden(switch, wanted)):
        yield
    killed: dict[int, ConnectionRow] = {}
    sockets = sockets_of_all() if wanted else iter(())
    for batch in every(BATCH, sockets):
        for pid, number, inode in batch:
            if inode in wanted and inode not in killed and _shut(pid, number, inode):
                killed[inode] = wanted[inode]
        if len(killed) == len(wanted):
            break
        yield
    return tuple(killed.values())


def sockets_of_all() -> Iterator[tuple[int, int, int]]:
    """Process, number, inode (0: no socket) of every descriptor of the host; (pid, -1, 0) for each process first.

    Directories are read as they are walked through: one process may have a million descriptors.
    """
    with os.scandir("/proc") as processes:
        for process in processes:
            if process.name.isdigit():
                yield int(process.name), -1, 0
                yield from _descriptors(int(process.name))


def _descriptors(pid: int) -> Iterator[tuple[int, int, int]]:
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                yield pid, int(entry.name), _inode(entry.path)
    except OSError:  # it has ended, or is another user's
        return


def _inode(path: str) -> int:
    try:
        link = os.readlink(path)
    except OSError:
        return 0
    return int(link[8:-1]) if link.startswith("socket:[") else 0


def _shut(pid: int, number: int, inode: int) -> bool:
    try:
        found = _kernel.fetch(_kernel.pidfd_open(pid, 0), number)
    except OSError:
        return False
    if isinstance(found, int) or os.fstat(found[0].fileno()).st_ino != inode:
        return False
    return _kernel.shutdown(found[0], _BOTH) == 0


def _forbidden(switch: Switch, found: dict[int, ConnectionRow]) -> Iterator[None]:
    """Put them into ``found`` by inode, a step for each connection.

    What the first bytes were is not known any more: only a denial that does not depend on them counts.
    """
    known: Backends = {}
    for one in established(switch):
        client, server, port = ends(switch, one, known)
        if client.app_id != server.app_id and switch.policies.decide(client, server, port, "tcp").allowed is False:
            found[one.inode] = ConnectionRow(
                client_app=one.client_app, server_app=one.server_app, proto="tcp", client=str(one.client),
                server=str(one.server), transport=one.transport,
            )  # fmt: skip
        yield
