"""sd_notify(3): the server's side, to the children, and the client's, to a service manager above us."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIRST_FD = 3  # SD_LISTEN_FDS_START
SCM_MAX_FD = 253  # descriptors that the kernel passes in one message, unix(7)


class NotifySocket:
    """``$RUN/notify.sock``, where the children report; the kernel vouches for who they are (SCM_CREDENTIALS)."""

    def __init__(self, path: str, inherited: int = -1) -> None:
        """``inherited``: the same socket, from the program that we were before."""
        self.path = path
        if inherited >= 0:
            self.socket = socket.socket(fileno=inherited)
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(path)
        os.chmod(path, 0o600)

    def receive(self) -> tuple[int, str, list[int]] | None:
        """The next message: the sender's pid, the text, its descriptors (now the caller's). None: none is waiting."""
        space = socket.CMSG_SPACE(4 * SCM_MAX_FD) + socket.CMSG_SPACE(12)
        try:
            data, ancillary, _, _ = self.socket.recvmsg(64 << 10, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        pid = 0
        fds: list[int] = []
        for level, kind, body in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds += struct.unpack(f"{len(body) // 4}i", body[: len(body) // 4 * 4])
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = struct.unpack("3i", body)[0]
        return pid, data.decode("utf-8", "replace"), fds


def fd_name(fields: Mapping[str, str]) -> str:
    """``FDNAME=``, or "stored" when it has none that sd_pid_notify_with_fds(3) allows (255 printable, no colon)."""
    name = fields.get("FDNAME", "")
    good = 0 < len(name) <= 255 and name.isascii() and name.isprintable() and ":" not in name
    return name if good else "stored"


class Upstream:
    """Our own service manager, if there is one. It may be gone: that is its affair."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        room = os.environ.get("FDSTORE", "")
        # systemd.exec(5): how many descriptors it would keep. It then starts us again as well.
        self.keeps = bool(self._address) and room.isdigit() and int(room) > 0

    def tell(self, text: str, fds: Sequence[int] = ()) -> None:
        """Send it."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(self._address)
            socket.send_fds(sock, [text.encode()], list(fds))

    def store(self, child: str, name: str, fds: Sequence[int], poll: bool) -> None:
        """What a child stores with us we store there, in its name: so it outlives us, too."""
        if self.keeps and fds:
            self.tell(f"FDSTORE=1\n{'' if poll else 'FDPOLL=0' + chr(10)}FDNAME={child}.{name}"[:300], fds)

    def remove(self, child: str, name: str) -> None:
        """The reverse."""
        if self.keeps:
            self.tell(f"FDSTOREREMOVE=1\nFDNAME={child}.{name}")


def passed_on() -> list[tuple[str, str, int]]:
    """What our manager kept while we were away, sd_listen_fds(3): child, name, descriptor (now the caller's)."""
    for_us = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if not for_us or not count.isdigit():
        return []
    found = []
    for fd in range(FIRST_FD, FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        child, _, name = (names[fd - FIRST_FD] if fd - FIRST_FD < len(names) else "").partition(".")
        found.append((child, name, fd))
    return found
