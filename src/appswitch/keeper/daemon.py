"""The keeper itself: to its children it is a service manager.

It speaks the server's side of sd_notify(3) (READY, STATUS, FDSTORE, FDSTOREREMOVE, FDNAME, FDPOLL), and hands stored
descriptors back as sd_listen_fds(3) describes. A child that is moved under systemd itself needs no change.

Should the keeper be killed, its children stay and go on serving, start another one (appswitch/parent.py), and tell it
all that they store. Should it be restarted by a service manager that keeps descriptors, it finds them there.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time

from appswitch.keeper import child as children
from appswitch.keeper import directory as place
from appswitch.keeper.child import BURST, BURST_SECONDS, SIGNALS, Child, child_environment, how
from appswitch.keeper.directory import KeeperError
from appswitch.keeper.log import log
from appswitch.keeper.notify import NotifySocket, Upstream, fd_name, passed_on
from appswitch.keeper.upgrade import Upgrades, inherited
from appswitch.parent import started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


GRACE = 5.0  # seconds between SIGTERM and SIGKILL when the daemon stops
HOLDER = "holder-"  # how it is stored: a process that keeps a child's descriptors open, by its pidfd
ADOPTION = 5.0  # seconds that the lock of a keeper that was killed may take to be free


def commands() -> dict[str, Sequence[str]]:
    """The daemon's processes: the switch first, then control. -P: nothing in the current directory is imported."""
    return {name: (sys.executable, "-P", "-m", f"appswitch.{name}") for name in ("switch", "control")}


class Keeper:
    """The loop: signals, then messages, then deaths, then timers. ``run`` returns the daemon's exit status."""

    def __init__(self, directory: str, programs: Mapping[str, Sequence[str]]) -> None:
        """``programs`` are argument vectors by name; the ready line has the STATUS of the last one."""
        self.directory = directory
        self.children = [Child(name, argv) for name, argv in programs.items()]
        self.announced = False
        self.stopping: float | None = None  # when the patience with the children ends, monotonic seconds
        self.status = 0
        self.upstream = Upstream()

    def run(self) -> int:
        """Raises KeeperError if the daemon cannot even be started."""
        before = inherited()
        adopting = os.environ.pop("AX_ADOPT", "") == "1"
        kept = passed_on()
        if adopting:
            os.chdir("/")  # we were started where the switch works
        if before is None:
            if adopting and not os.path.exists(os.path.join(self.directory, "daemon.pid")):
                raise KeeperError(f"there was no daemon in {self.directory}")
            place.prepare_directory(self.directory)
            self.lock = self._lock(adopting)
        else:
            self.lock = before.lock
        os.umask(0o022)
        children.raise_file_limit()
        self.epoll = select.epoll()
        if before is None:
            self._begin(adopting, kept)
        else:
            self.notify = NotifySocket(os.path.join(self.directory, "notify.sock"), before.notify)
            self.announced = before.announced
            before.restore(self)
        self.epoll.register(self.notify.socket, select.EPOLLIN)
        self.signals = _signal_pipe()
        self.epoll.register(self.signals, select.EPOLLIN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self.upgrades = Upgrades(self)
        if before is not None:
            self.upgrades.done(before)
        try:
            while not self._finished():
                self._start_due()
                log.tell_suppressed(time.monotonic())
                self._handle(self.epoll.poll(self._timeout()))
        finally:
            self._end()
        return self.status

    def _lock(self, adopting: bool) -> int:
        path, end = os.path.join(self.directory, "daemon.pid"), time.monotonic() + ADOPTION
        while True:
            try:
                return place.lock_pidfile(path)
            except KeeperError:
                with open(path) as file:
                    holder = file.read().strip()
                # Not another keeper's, but that of the one whose death is just under way.
                if not adopting or time.monotonic() > end or (holder.isdigit() and started(int(holder))):
                    raise
            time.sleep(0.01)

    def _begin(self, adopting: bool, kept: Sequence[tuple[str, str, int]]) -> None:
        """A daemon that is new, or was here before us: its processes may run, or our manager has what they stored."""
        clean = os.environ.pop("AX_CLEAN", "0") == "1" and not adopting
        running = place.read_roster(self.directory)
        if clean:
            for pid in running.values():
                _kill(pid)
            running = {}
        if clean and os.environ.get("AX_STATE_DIR"):
            place.remove(os.environ["AX_STATE_DIR"], place.STATE)
        if clean or not (running or kept):
            self._sweep()
        # Bound before the pid is believed: who has lost the old keeper knocks here until somebody answers.
        self.notify = NotifySocket(os.path.join(self.directory, "notify.sock"))
        for child in self.children:
            if child.name in running:
                with contextlib.suppress(ProcessLookupError):
                    self.adopt(child, running[child.name])
                    log("warning", "took over {name}, which runs (pid {pid})", name=child.name, pid=child.pid)
        self.announced = adopting
        for name, stored, fd in kept:
            heir = next((one for one in self.children if one.name == name), None)
            # Who runs tells everything again.
            if heir is None or heir.pid or clean:
                self.upstream.remove(name, stored)
                os.close(fd)
            else:
                self.keep(heir, stored, fd, True)
        self._write_roster()

    def _end(self) -> None:
        for child in self.children:
            if child.standby is not None:
                child.standby.end()
            if not self.upstream.keeps:  # else somebody may be started who wants what it has
                for holder in child.store.take(lambda name, _: name.startswith(HOLDER)):
                    _end_holder(holder)
        if self.upstream.keeps:  # who starts us again hands everything back: what apps are connected to has to stay
            place.remove(self.directory, ("keeper.sock", "notify.sock"))
        else:
            self._sweep()
            place.remove_sockets(os.path.join(self.directory, "s"))
        place.remove(self.directory, (place.ROSTER, *(["daemon.pid"] if self._has_directory() else [])))
        os.close(self.lock)

    def _sweep(self) -> None:
        place.remove(self.directory, place.LEFTOVERS)
        place.remove_sockets(os.path.join(self.directory, "s"))

    def _finished(self) -> bool:
        return self.stopping is not None and not any(child.pid for child in self.children)

    def _timeout(self) -> float | None:
        due = [child.start_at for child in self.children if child.start_at is not None]
        if self.stopping is not None:
            due = [self.stopping]
        elif (summary := log.due()) is not None:
            due.append(summary)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _handle(self, events: Sequence[tuple[int, int]]) -> None:
        ready = {fd for fd, _ in events}
        if self.signals.fileno() in ready:
            for number in self.signals.recv(64):
                self._signalled(signal.Signals(number))
        # A child's last words come before its death: they may hold descriptors that its successor needs.
        while (message := self.notify.receive()) is not None:
            self._told(*message)
        self.upgrades.handle(ready)
        for child in self.children:
            if child.pid and child.pidfd in ready:
                self._reap(child)
            if child.standby is not None:
                self._look_at_standby(child, ready)
            # Hung up: nobody is at the other end any more. systemd's file descriptor store drops such ones, too.
            self._discard(child.store.take(lambda _, fd: fd in ready))
        if self.stopping is not None and time.monotonic() >= self.stopping:
            self._kill_rest()

    # Starting and dying

    def _start_due(self) -> None:
        for child in self.children:
            if child.start_at is not None and child.start_at <= time.monotonic():
                self._start(child)

    def environment(self) -> dict[str, str]:
        """A child's."""
        return child_environment(os.environ, self.notify.path, self.upstream.keeps)

    def _start(self, child: Child) -> None:
        child.start_at = None
        if child.standby is not None:
            return  # it is loading, and is next
        if child.store.names > children.MAX_NAMES:  # too many for an environment: it is told when it is there
            self.stand_by(child, child.argv, self.environment())
            return
        self.adopt(child, children.start(child.argv, self.environment(), child.store.entries))
        self._write_roster()

    def stand_by(self, child: Child, argv: Sequence[str], env: dict[str, str]) -> None:
        """Start a successor, who takes the child's place when both that has ended and he has loaded himself."""
        child.standby = children.start_standby(argv, env)
        for watched in (child.standby.pidfd, child.standby.socket.fileno()):
            self.epoll.register(watched, select.EPOLLIN)

    def _look_at_standby(self, child: Child, ready: set[int]) -> None:
        standby = child.standby
        assert standby is not None
        if standby.socket.fileno() in ready and not standby.loaded:
            standby.loaded = standby.socket.recv(16) == b"loaded"
            if standby.loaded:
                self.upgrades.loaded(child)
        if standby.loaded and not child.pid:
            self.epoll.unregister(standby.socket)
            self.epoll.unregister(standby.pidfd)
            child.standby = None
            with contextlib.suppress(OSError):  # it has died meanwhile, and is reaped like others
                standby.go(child.store.entries)
            standby.close()
            self.adopt(child, standby.pid)
            self._write_roster()
        elif standby.pidfd in ready or (standby.socket.fileno() in ready and not standby.loaded):
            self.drop_standby(child)
            if not child.pid:
                child.start_at = time.monotonic() + child.note_death(time.monotonic())
            self.upgrades.failed(child, "could not be loaded; the old one goes on")

    def drop_standby(self, child: Child) -> None:
        """Whoever stands by is not needed, or has died."""
        assert child.standby is not None
        self.epoll.unregister(child.standby.socket)
        self.epoll.unregister(child.standby.pidfd)
        child.standby.end()
        child.standby = None

    def adopt(self, child: Child, pid: int) -> None:
        """It is this process from now on. Raises ProcessLookupError."""
        child.run(pid)
        self.epoll.register(child.pidfd, select.EPOLLIN)

    def _write_roster(self) -> None:
        place.write_roster(self.directory, {child.name: child.pid for child in self.children})

    def _reap(self, child: Child) -> None:
        self.epoll.unregister(child.pidfd)
        code = child.reap()
        if self.stopping is not None:
            return
        if code and code > 0 and not self.announced:
            log("error", "{name} could not start ({how})", name=child.name, how=how(code))
            self.stop(1)
            return
        if not self._has_directory():
            log(
                "error", "{directory} is gone, and {name} {how}: the daemon ends",
                directory=self.directory, name=child.name, how=how(code),
            )  # fmt: skip
            self.stop(1)
            return
        now = time.monotonic()
        if self.upgrades.ended(child):
            child.start_at = now
            return
        delay = child.note_death(now)
        if len(child.deaths) >= BURST and not self.announced:
            log(
                "error", "{name} {how}, {times} times within {seconds:.0f} s: giving up",
                name=child.name, how=how(code), times=BURST, seconds=BURST_SECONDS,
            )  # fmt: skip
            self.stop(1)
            return
        when = f" in {delay:.1f} s" if delay else ""
        log("warning", "{name} {how}; starting it again{when}", name=child.name, how=how(code), when=when)
        child.start_at = now + delay

    def _has_directory(self) -> bool:
        """Whether the run directory is still ours: somebody may have removed it, and nobody would find us again."""
        try:
            return os.path.samestat(os.fstat(self.lock), os.stat(os.path.join(self.directory, "daemon.pid")))
        except OSError:
            return False

    def stop(self, status: int) -> None:
        """End the children, then the daemon, with this status."""
        if self.stopping is not None:
            return
        self.stopping = time.monotonic() + GRACE
        self.status = status
        self.upstream.tell("STOPPING=1")
        for child in self.children:
            child.start_at = None
            child.send(signal.SIGTERM)

    def _kill_rest(self) -> None:
        self.stopping = time.monotonic() + GRACE
        for child in self.children:
            if child.pid:
                log("warning", "{name} did not end within {seconds:.0f} s: killing it", name=child.name, seconds=GRACE)
                child.send(signal.SIGKILL)

    # Signals and messages

    def _signalled(self, number: signal.Signals) -> None:
        # A hang-up of the terminal that the daemon was started in by hand ends it; a service manager's means "reload".
        if number != signal.SIGHUP or os.isatty(0):
            self.stop(0)
            return
        for child in self.children:
            child.send(number)

    def _told(self, pid: int, text: str, fds: list[int]) -> None:
        """A message of sd_notify(3). Descriptors that it does not ask us to store are closed: BARRIER=1 works so."""
        fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        child = next((child for child in self.children if child.pid and child.pid == pid), None)
        if child is None:
            log("warning", "ignored a message on the notify socket from pid {pid}, which is not ours", pid=pid)
        elif fields.get("FDSTORE") == "1":
            self._store(child, fields, fds)
            fds = []
        elif fields.get("FDSTOREREMOVE") == "1":
            name = fd_name(fields)
            self._discard(child.store.take(lambda stored, _: stored == name))
            self.upstream.remove(child.name, name)
        for fd in fds:
            os.close(fd)
        if child is not None:
            self._report(child, fields)

    def _discard(self, stored: Sequence[int]) -> None:
        for fd in stored:
            # Not left to close(2): epoll watches the open file, and the child has a descriptor of it, too.
            with contextlib.suppress(OSError):  # it may never have been watched
                self.epoll.unregister(fd)
            os.close(fd)

    def _store(self, child: Child, fields: Mapping[str, str], fds: Sequence[int]) -> None:
        name, poll = fd_name(fields), fields.get("FDPOLL") != "0"
        self.upstream.store(child.name, name, fds, poll)
        refused = sum(not self.keep(child, name, fd, poll) for fd in fds)
        if refused:
            log(
                "error", "too many descriptors: {refused} of {name} will not survive its restart",
                refused=refused, name=child.name,
            )  # fmt: skip

    def keep(self, child: Child, name: str, fd: int, poll: bool) -> bool:
        """Store it for a child. False: there is no room, and ``fd`` is closed."""
        if not child.store.add(name, fd, poll):
            os.close(fd)
            return False
        if poll:
            # EPOLLHUP and EPOLLERR are always reported. A file without poll, such as a memfd, cannot hang up; what
            # cannot be watched for another reason (an epoll that watches ours, too many) is kept all the same.
            with contextlib.suppress(OSError):
                self.epoll.register(fd, 0)
        return True

    def _report(self, child: Child, fields: Mapping[str, str]) -> None:
        if "STATUS" in fields and fields["STATUS"] != child.status:
            child.status = fields["STATUS"]
            if self.announced:
                self.upstream.tell(f"STATUS={child.name}: {child.status}")
        if fields.get("READY") == "1":
            child.ready = True
            if all(each.ready for each in self.children) and not self.announced:
                self._announce()
        if fields.get("X_APPSWITCH_SERVING") == "1":
            self.upgrades.serving(child)

    def _announce(self) -> None:
        self.announced = True
        node = os.environ.get("AX_NODE_NAME") or os.uname().nodename
        line = f"ax daemon ready: node {node}, run directory {self.directory}"
        if self.children[-1].status:
            line += f", {self.children[-1].status}"
        with contextlib.suppress(OSError, ValueError):
            print(line, flush=True)
        self.upstream.tell(f"READY=1\nSTATUS={line}")


def _kill(pid: int) -> None:
    """A process of a daemon that is to be forgotten, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], GRACE)
        finally:
            os.close(pidfd)


def _end_holder(pidfd: int) -> None:
    """Nobody comes any more who might want what it has."""
    with contextlib.suppress(OSError):  # it has ended, or somebody else's descriptor has that name
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], GRACE)
    os.close(pidfd)


def _signal_pipe() -> socket.socket:
    """A socket on which the number of each signal that arrives can be read as a byte."""
    ours, wakeup = socket.socketpair()
    ours.setblocking(False)
    wakeup.setblocking(False)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, it would take waitpid's answers away
    signal.set_wakeup_fd(wakeup.detach(), warn_on_full_buffer=False)
    return ours
