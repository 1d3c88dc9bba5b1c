"""Trying features of the kernel, each in a process of its own: whatever is installed or crashed on is gone with it.

Nothing of ours is imported, so that `ax doctor` works where the build is broken. Numbers are those of the kernel's
headers (linux/seccomp.h, linux/landlock.h, linux/sock_diag.h) and of the system call tables of the two architectures.

A probe returns what it saw, or raises MissingError or OSError.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

FLOOR = (5, 14)
DEADLINE = 5.0  # seconds that a probe may take; it then counts as missing

_SYSCALLS = {
    "x86_64": {"seccomp": 317, "getppid": 110, "process_vm_readv": 310, "kcmp": 312},
    "aarch64": {"seccomp": 277, "getppid": 173, "process_vm_readv": 270, "kcmp": 272},
}
_COMMON = {"pidfd_open": 434, "pidfd_getfd": 438, "landlock_create_ruleset": 444}

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_RET_USER_NOTIF, _RET_ALLOW = 0x7FC00000, 0x7FFF0000
_NOTIF_RECV, _NOTIF_SEND, _NOTIF_ADDFD, _NOTIF_SET_FLAGS = 0xC0502100, 0xC0182101, 0x40182103, 0x40082104
_ADDFD_SEND, _SYNC_WAKE_UP = 2, 1
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_NETLINK_ROUTE, _NETLINK_SOCK_DIAG, _RTM_NEWLINK, _SOCK_DIAG_BY_FAMILY = 0, 4, 16, 20
_NLMSG_ERROR, _REQUEST, _ACK, _DUMP, _CREATE_EXCL = 2, 1, 4, 0x300, 0x600
_LANDLOCK_NET = 4  # the first ABI with TCP
_KCMP_FILE = 0


class MissingError(Exception):
    """A probe's way to say no."""


_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Raises OSError."""
    table = _SYSCALLS.get(platform.machine(), {}) | _COMMON
    if name not in table:
        raise MissingError(f"unknown on {platform.machine()}")
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(_libc.syscall(ctypes.c_long(table[name]), *given))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _unshare(flags: int) -> None:
    if _libc.unshare(flags) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _namespaces() -> int:
    """What an app's own network namespace takes: for who is not root also a user namespace."""
    return _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWNET | _CLONE_NEWUSER


class Isolated:
    """A function in a forked process: whatever it installs, unshares or crashes on is gone with it."""

    def __init__(self, run: Callable[[], str]) -> None:
        self._reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._reader)
            try:
                os.write(writer, _outcome(run))
            finally:
                os._exit(0)
        os.close(writer)

    def result(self) -> tuple[bool, str]:
        """Whether it returned, and what; or why not."""
        said = b""
        end = time.monotonic() + DEADLINE
        try:
            while select.select([self._reader], [], [], max(0.0, end - time.monotonic()))[0]:
                chunk = os.read(self._reader, 4096)
                if not chunk:
                    break
                said += chunk
            else:
                said = b"-it hangs"
        finally:
            os.close(self._reader)
            os.kill(self._pid, signal.SIGKILL)
            _, status = os.waitpid(self._pid, 0)
        if not said:
            return False, f"the probe died ({os.waitstatus_to_exitcode(status)})"
        return said[:1] == b"+", said[1:].decode()


def _outcome(run: Callable[[], str]) -> bytes:
    try:
        return b"+" + run().encode()
    except MissingError as err:
        return b"-" + str(err).encode()
    except OSError as err:
        return b"-" + (err.strerror or str(err)).encode()
    except Exception as err:
        return f"-{type(err).__name__}: {err}".encode()


# --- a target and its supervisor, of which neither is the parent: so are the daemon and its apps ----------------------


class _Target:
    """What the supervisor gets to work with: a process that hangs in getppid(2), as a notification."""

    def __init__(self, listener: int, pid: int, address: int) -> None:
        self.listener = listener
        self.pid = pid
        self.address = address  # of SECRET in its memory

    def receive(self) -> int:
        """The notification's id."""
        notification = bytearray(80)
        fcntl.ioctl(self.listener, _NOTIF_RECV, notification)
        return int(struct.unpack_from("Q", notification)[0])

    def reply(self, notification: int, value: int) -> None:
        fcntl.ioctl(self.listener, _NOTIF_SEND, struct.pack("QqiI", notification, value, 0, 0))


SECRET = b"appswitch doctor"


def _filter() -> ctypes.Array[ctypes.c_char]:
    """getppid(2) notifies, everything else is allowed: bpf of seccomp(2)."""
    number = _SYSCALLS[platform.machine()]["getppid"]
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the system call's number
            (0x15, 0, 1, number),  # equal?
            (0x06, 0, 0, _RET_USER_NOTIF),
            (0x06, 0, 0, _RET_ALLOW),
        )
    )
    return ctypes.create_string_buffer(program, len(program))


def _install() -> int:
    """Returns the listener's descriptor. Raises OSError."""
    program = _filter()
    fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(program)))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return _syscall("seccomp", _SET_MODE_FILTER, _NEW_LISTENER, fprog)


def _target(channel: socket.socket) -> None:
    """Install the filter, hand the listener over, call getppid(2), and say what it returned."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.geteuid() != 0:
        _unshare(_CLONE_NEWUSER)  # as its apps have one, which is what lets a user's daemon look into them
    secret = ctypes.create_string_buffer(SECRET)
    listener = _install()
    socket.send_fds(channel, [struct.pack("iQ", os.getpid(), ctypes.addressof(secret))], [listener])
    os.close(listener)
    returned = _libc.getppid()
    channel.sendall(struct.pack("i?", returned, _is_open(returned)))
    channel.recv(1)  # stay until the supervisor has seen enough


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _with_target(supervise: Callable[[_Target, socket.socket], str]) -> str:
    """Run ``supervise`` beside a target. Raises what it raises, and OSError or MissingError if there is no target."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _target(theirs)
        except OSError as err:
            theirs.sendall(struct.pack("i", -(err.errno or errno.EIO)))
        finally:
            os._exit(0)
    theirs.close()
    supervisor = Isolated(lambda: _supervise(ours, supervise))
    try:
        found, detail = supervisor.result()
    finally:
        ours.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if not found:
        raise MissingError(detail)
    return detail


def _supervise(channel: socket.socket, supervise: Callable[[_Target, socket.socket], str]) -> str:
    message, fds, _, _ = socket.recv_fds(channel, 64, 1)
    if not fds:
        code = -struct.unpack("i", message)[0] if len(message) == 4 else errno.EIO
        raise OSError(code, os.strerror(code))
    pid, address = struct.unpack("iQ", message)
    return supervise(_Target(fds[0], pid, address), channel)


# --- probes ----------------------------------------------------------------------------------------------------------


def architecture() -> str:
    """The 64-bit ones whose numbers we have."""
    machine = platform.machine()
    if machine not in _SYSCALLS or sys.maxsize < 2**32:
        raise MissingError(f"{machine}: only 64-bit x86-64 and aarch64 are known")
    return machine


def kernel() -> str:
    """No older than `FLOOR`."""
    release = os.uname().release
    numbers = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in release.split("-")[0].split(".")[:2])
    if numbers < FLOOR:
        raise MissingError(f"this is {release}")
    return release


def notification() -> str:
    """A call is caught and answered: seccomp_unotify(2)."""

    def supervise(target: _Target, channel: socket.socket) -> str:
        target.reply(target.receive(), 4711)
        returned, _ = struct.unpack("i?", channel.recv(5))
        if returned != 4711:
            raise MissingError(f"a call was answered with 4711 and returned {returned}")
        return "a call was caught and answered"

    return _with_target(supervise)


def addfd_send() -> str:
    """A caught call is answered with a descriptor, in one step."""

    def supervise(target: _Target, channel: socket.socket) -> str:
        with socket.socket(socket.AF_UNIX) as given:
            notification = target.receive()
            request = struct.pack("QIIII", notification, _ADDFD_SEND, given.fileno(), 0, 0)
            fcntl.ioctl(target.listener, _NOTIF_ADDFD, request)
        returned, is_open = struct.unpack("i?", channel.recv(5))
        if not is_open:
            raise MissingError(f"descriptor {returned} did not arrive")
        return "a socket was put into another process"

    return _with_target(supervise)


def sync_wake_up() -> str:
    """Caller and supervisor take turns on one core."""

    def supervise(target: _Target, _: socket.socket) -> str:
        try:
            # The number itself is the argument, not a pointer to it.
            fcntl.ioctl(target.listener, _NOTIF_SET_FLAGS, _SYNC_WAKE_UP)
        except OSError as err:
            raise MissingError(f"the flag is refused ({err.strerror})") from None
        return "the flag is taken"

    return _with_target(supervise)


def pidfd_getfd() -> str:
    """A descriptor of another process can be had: pidfd_getfd(2), ptrace(2)'s access check."""

    def supervise(target: _Target, _: socket.socket) -> str:
        pidfd = os.pidfd_open(target.pid)
        os.close(_syscall("pidfd_getfd", pidfd, 0, 0))
        return "a descriptor of another process was duplicated"

    return _with_target(supervise)


def process_vm_readv() -> str:
    """Memory of another process can be read: process_vm_readv(2)."""

    def supervise(target: _Target, _: socket.socket) -> str:
        buffer = ctypes.create_string_buffer(len(SECRET))
        local = ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(buffer), len(SECRET)))
        remote = ctypes.create_string_buffer(struct.pack("PN", target.address, len(SECRET)))
        got = _syscall("process_vm_readv", target.pid, local, 1, remote, 1, 0)
        if buffer.raw[:got] != SECRET:
            raise MissingError("it reads something else")
        return "another process's memory was read"

    return _with_target(supervise)


def kcmp() -> str:
    """Open files of two processes can be compared: kcmp(2)."""

    def supervise(target: _Target, _: socket.socket) -> str:
        # Both inherited our standard error.
        if _syscall("kcmp", target.pid, os.getpid(), _KCMP_FILE, 2, 2) != 0:
            raise MissingError("the same file is not found to be the same")
        return "open files of two processes were compared"

    return _with_target(supervise)


def pidfd_thread() -> str:
    """pidfd_open(2) takes a thread that is not the leader of its process."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        os.close(os.pidfd_open(thread.native_id, os.O_EXCL))  # PIDFD_THREAD
    except OSError as err:
        raise MissingError(f"the flag is refused ({err.strerror})") from None
    finally:
        done.set()
        thread.join()
    return "a thread was opened"


def landlock() -> str:
    """landlock(7) is enabled and knows TCP."""
    try:
        abi = _syscall("landlock_create_ruleset", None, 0, 1)  # LANDLOCK_CREATE_RULESET_VERSION
    except OSError as err:
        if err.errno == errno.EOPNOTSUPP:
            raise MissingError("built in, but not enabled at boot (lsm=)") from None
        raise
    if abi < _LANDLOCK_NET:
        raise MissingError(f"ABI {abi}: without TCP, which came with {_LANDLOCK_NET}")
    return f"ABI {abi}"


def network_namespace() -> str:
    """One can be made and furnished: network_namespaces(7), user_namespaces(7)."""
    try:
        _unshare(_namespaces())
    except OSError as err:
        raise MissingError(f"refused ({err.strerror})") from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
        try:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
        except OSError:
            raise MissingError("it can be made, but not used: AppArmor takes its capabilities away") from None
    return "made, with lo up" if os.geteuid() == 0 else "made in a user namespace, with lo up"


def _netlink(protocol: int, kind: int, flags: int, body: bytes) -> tuple[int, int]:
    """The reply's type, and its errno if it is an error."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.send(struct.pack("IHHII", 16 + len(body), kind, _REQUEST | flags, 1, 0) + body)
        reply = sock.recv(1 << 16)
    answer = struct.unpack_from("IHHII", reply)[1]
    return answer, -struct.unpack_from("i", reply, 16)[0] if answer == _NLMSG_ERROR else 0


def _attribute(kind: int, body: bytes) -> bytes:
    return (struct.pack("HH", 4 + len(body), kind) + body).ljust(4 + (len(body) + 3) // 4 * 4, b"\0")


def interface() -> str:
    """A dummy or, failing that, a veth interface can be made in an own network namespace."""
    _unshare(_namespaces())
    for kind in (b"dummy", b"veth"):
        info = _attribute(18, _attribute(1, kind))  # IFLA_LINKINFO, IFLA_INFO_KIND
        body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + _attribute(3, b"axprobe\0") + info  # IFLA_IFNAME
        if _netlink(_NETLINK_ROUTE, _RTM_NEWLINK, _ACK | _CREATE_EXCL, body)[1] == 0:
            return kind.decode()
    raise MissingError("neither dummy nor veth")


def _diag(body: bytes) -> str:
    _, code = _netlink(_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _DUMP, body)
    if code:
        raise MissingError(f"refused ({os.strerror(code)}); perhaps a module is not loaded")
    return "sockets were listed"


def unix_diag() -> str:
    """Unix sockets can be listed: sock_diag(7)."""
    return _diag(struct.pack("BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, 1, 0, 0))


def inet_diag() -> str:
    """TCP sockets can be listed: sock_diag(7)."""
    return _diag(struct.pack("BBBxI48x", socket.AF_INET, socket.IPPROTO_TCP, 0, 0xFFFFFFFF))


def epoll_fdinfo() -> str:
    """/proc/PID/fdinfo says what an epoll descriptor watches: proc(5)."""
    with select.epoll() as epoll, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        epoll.register(sock, select.EPOLLIN)
        with open(f"/proc/self/fdinfo/{epoll.fileno()}") as file:
            if f"tfd:{sock.fileno():9}" not in file.read():
                raise MissingError("it does not list what is watched")
    return "what is watched is listed"


def _sysctl(name: str) -> str | None:
    try:
        with open(f"/proc/sys/kernel/{name}") as file:
            return file.read().strip()
    except OSError:
        return None


def yama() -> str:
    """kernel.yama.ptrace_scope lets a daemon look into its apps."""
    scope = _sysctl("yama/ptrace_scope")
    if scope is None:
        return "no Yama here"
    if scope == "3" or (scope == "2" and os.geteuid() != 0):
        raise MissingError(f"kernel.yama.ptrace_scope is {scope}")
    return f"kernel.yama.ptrace_scope is {scope}"


def apparmor() -> str:
    """AppArmor leaves capabilities to user namespaces of users."""
    value = _sysctl("apparmor_restrict_unprivileged_userns")
    if value == "1" and os.geteuid() != 0:
        raise MissingError("kernel.apparmor_restrict_unprivileged_userns is 1")
    return "does not matter for root" if os.geteuid() == 0 else "user namespaces are not restricted"
