"""A service manager, as far as one service needs it: sd_notify(3), FDSTORE, and Restart=always of systemd.service(5).

No systemd runs where tests do. This is its side of the protocol as systemd's manual pages have it, written without a
look at the keeper, which speaks the other side.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from harness import wait_until
from harness.marks import marked

FIRST, MOST = 3, 4096


class Manager:
    """Runs a command, and again when it ends. ``group``: with the main process all others are killed (KillMode=)."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], mark: tuple[str, str], group: bool
    ) -> None:
        self._command, self._environment = list(command), dict(environment)
        self._mark, self._group = mark, group
        self._place = tempfile.TemporaryDirectory(prefix="axt-manager-", dir="/tmp")
        self.log = Path(self._place.name) / "log"
        self.stored: list[tuple[str, int]] = []
        self.ready = 0  # how often it was said
        self.pid = 0
        self._stopping = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(f"{self._place.name}/notify")
        self._stop, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_ready(1)
        return self

    def wait_ready(self, times: int) -> None:
        wait_until(lambda: self.ready >= times, lambda: f"READY=1\n{self.log.read_text()}", 40)

    def __exit__(self, *_: object) -> None:
        """``systemctl stop``: SIGTERM, and what was stored is dropped."""
        self._stopping = True
        os.kill(self.pid, signal.SIGTERM)
        self._thread.join()
        self._socket.close()
        os.close(self._woken)
        os.close(self._stop)
        self._place.cleanup()

    def _run(self) -> None:
        while not self._stopping:
            self.pid = self._start()
            pidfd = os.pidfd_open(self.pid)
            while pidfd not in (ready := select.select([pidfd, self._socket], [], [])[0]):
                if self._socket in ready:
                    self._hear()
            while select.select([self._socket], [], [], 0)[0]:
                self._hear()
            os.close(pidfd)
            os.waitpid(self.pid, 0)
            if self._group:
                for pid in marked(*self._mark):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                wait_until(lambda: not marked(*self._mark), "the service's other processes to be gone")
        for _, fd in self.stored:
            os.close(fd)

    def _start(self) -> int:
        environment = self._environment | {"NOTIFY_SOCKET": f"{self._place.name}/notify", "FDSTORE": str(MOST)}
        pid = os.fork()
        if pid:
            return pid
        try:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for number in (1, 2):
                os.dup2(log, number)
            os.setsid()
            high = [os.dup2(fd, 10_000 + index) for index, (_, fd) in enumerate(self.stored)]
            for index, fd in enumerate(high):
                os.dup2(fd, FIRST + index)
            os.closerange(FIRST + len(high), 10_000 + len(high) + 1)
            if high:
                environment["LISTEN_FDS"] = str(len(high))
                environment["LISTEN_PID"] = str(os.getpid())
                environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in self.stored)
            os.execve(self._command[0], self._command, environment)
        finally:
            os._exit(127)

    def _hear(self) -> None:
        data, ancillary, _, _ = self._socket.recvmsg(65536, 4096, socket.MSG_CMSG_CLOEXEC)
        fields = dict(line.split("=", 1) for line in data.decode().splitlines())
        sender, fds = 0, []
        for level, kind, body in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds += struct.unpack(f"{len(body) // 4}i", body)
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                sender = struct.unpack("3i", body)[0]
        if sender != self.pid:  # NotifyAccess=main
            for fd in fds:
                os.close(fd)
            return
        name = fields.get("FDNAME", "stored")
        if fields.get("FDSTORE") == "1":
            assert len(self.stored) + len(fds) <= MOST
            self.stored += [(name, fd) for fd in fds]
        elif fields.get("FDSTOREREMOVE") == "1":
            for stored, fd in self.stored:
                if stored == name:
                    os.close(fd)
            self.stored = [one for one in self.stored if one[0] != name]
        self.ready += fields.get("READY") == "1"
