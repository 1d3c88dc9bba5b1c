"""What runs while the daemon is killed: servers, and clients that make every kind of call and count what fails.

``load.py server``, ``load.py client SERVER`` and ``load.py stranger HOST PORT`` (which is no app) need the standard
library only. A client prints one line of JSON when its standard input ends: for each kind of call how many were made
and failed, the failures, and those that took long: ``[start, seconds]`` by CLOCK_MONOTONIC, which all processes share.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import json
import os
import select
import socket
import sys
import threading
import time

BLOCKING, POLLED, QUEUED, DATAGRAMS, DENIED, LATE = 7000, 7001, 7002, 7003, 7004, 7005
LONG = 0.002  # seconds from which on a call is reported by itself
PATIENCE = 30.0  # seconds after which a call counts as lost
QUEUE = 8  # connections that nobody accepts until they have waited through some faults
LINE = 64


class Tally:
    """What was counted, by kind. One for each thread: nothing is shared."""

    def __init__(self) -> None:
        self.made: dict[str, int] = {}
        self.failed: dict[str, list[str]] = {}
        self.long: list[tuple[str, float, float]] = []

    @contextlib.contextmanager
    def call(self, kind: str):
        """One call, or a few that belong together; an exception is a failure, and is not passed on."""
        self.made[kind] = self.made.get(kind, 0) + 1
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            self.failed.setdefault(kind, []).append(f"{began:.3f} {error!r}")
            time.sleep(0.01)
        seconds = time.monotonic() - began
        if seconds > LONG:
            self.long.append((kind, began, seconds))


def read_all(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError(f"end of file after {len(data)} bytes")
        data += more
    return data


# --- servers


def serve(sock: socket.socket) -> None:
    with sock, contextlib.suppress(OSError):
        while data := sock.recv(4096):
            sock.sendall(data)


def accept_blocking(listener: socket.socket) -> None:
    """Several threads wait here."""
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


def accept_polled(listener: socket.socket) -> None:
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    socks = {}
    while True:
        for fd, _ in epoll.poll():
            if fd == listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock, _ = listener.accept()
                        sock.setblocking(False)
                        socks[sock.fileno()] = sock
                        epoll.register(sock, select.EPOLLIN)
                continue
            data = b""
            with contextlib.suppress(OSError):
                data = socks[fd].recv(4096)
            if data:
                socks[fd].sendall(data)
            else:
                epoll.unregister(fd)
                socks.pop(fd).close()


def accept_slowly(listener: socket.socket) -> None:
    """Until somebody is about to be turned away nobody is accepted; then all are, in the order in which they came."""
    while True:
        while not waiting(listener, QUEUE):
            time.sleep(0.02)
        for _ in range(QUEUE):
            sock, _ = listener.accept()
            threading.Thread(target=serve, args=(sock,), daemon=True).start()


def waiting(listener: socket.socket, count: int) -> bool:
    """Whether so many said that they are in the queue: each writes before it waits, and a datagram tells us."""
    return told.acquire(timeout=0.02) and all(told.acquire(timeout=PATIENCE) for _ in range(count - 1))


told = threading.Semaphore(0)


def echo_datagrams(sock: socket.socket) -> None:
    while True:
        data, peer = sock.recvfrom(4096)
        if data == b"queued":
            told.release()
        sock.sendto(data, peer)


def server() -> None:
    def listen(port: int) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", port))
        sock.listen(128)
        return sock

    blocking = listen(BLOCKING)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("0.0.0.0", DATAGRAMS))
    workers = [(accept_blocking, blocking)] * 3 + [
        (accept_polled, listen(POLLED)),
        (accept_slowly, listen(QUEUED)),
        (accept_blocking, listen(DENIED)),
        (echo_datagrams, datagrams),
    ]
    for function, argument in workers:
        threading.Thread(target=function, args=(argument,), daemon=True).start()
    print("serving", flush=True)
    sys.stdin.read()


# --- clients: each function is a thread's life


def round_trip(sock: socket.socket, text: bytes) -> None:
    sock.sendall(text)
    answer = read_all(sock, len(text))
    if answer != text:
        raise ValueError(f"{answer!r} instead of {text!r}")


def connects(tally: Tally, host: str, port: int, kind: str) -> None:
    with tally.call(f"{kind}: connect, round trip"), socket.socket() as sock:
        sock.settimeout(None)
        sock.connect((host, port))
        if sock.getpeername() != (host, port):
            raise ValueError(sock.getpeername())
        round_trip(sock, os.urandom(LINE))


def connects_polled(tally: Tally, host: str, port: int, kind: str) -> None:
    with tally.call(f"{kind}: connect, round trip, non-blocking"), socket.socket() as sock:
        sock.setblocking(False)
        error = sock.connect_ex((host, port))
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        if not poll.poll(PATIENCE * 1000):
            raise TimeoutError
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        sock.setblocking(True)
        round_trip(sock, os.urandom(LINE))


def denied(tally: Tally, host: str) -> None:
    with tally.call("policy: connect that is denied"), socket.socket() as sock:
        error = sock.connect_ex((host, DENIED))
        if error != errno.EACCES:
            raise ValueError(f"{error} instead of EACCES")


def established(tally: Tally, host: str) -> None:
    """One connection for all the time: nothing of it is a call that is decided, but for the names."""
    with socket.create_connection((host, BLOCKING)) as sock:
        name = sock.getsockname(), sock.getpeername()
        while running.is_set():
            with tally.call("established: round trip"):
                round_trip(sock, os.urandom(LINE))
            with tally.call("established: getsockname, getpeername"):
                if (sock.getsockname(), sock.getpeername()) != name:
                    raise ValueError(f"{sock.getsockname()} {sock.getpeername()} instead of {name}")


def queued(tally: Tally, host: str) -> None:
    """Connections that wait in a listening socket's queue, through some faults, and are answered in the end."""
    with tally.call("backlog: connections that waited, round trip"):
        socks = [socket.create_connection((host, QUEUED)) for _ in range(QUEUE)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%064d" % number)
        time.sleep(0.7)  # part of what is measured: they wait while the daemon dies
        for _ in socks:
            ask(host, b"queued")
        for number, sock in enumerate(socks):
            if read_all(sock, 64) != b"%064d" % number:
                raise ValueError("of another connection")
            sock.close()


def ask(host: str, text: bytes) -> None:
    """A question by UDP. A datagram may be lost, a call may not fail."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1.0)
        end = time.monotonic() + PATIENCE
        while True:
            sock.sendto(text, (host, DATAGRAMS))
            try:
                while sock.recv(4096) != text:
                    pass
            except TimeoutError:
                if time.monotonic() > end:
                    raise
            else:
                return


def asks(tally: Tally, host: str) -> None:
    with tally.call("datagrams: socket, sendto, answer"):
        ask(host, os.urandom(LINE))


def options(tally: Tally, _host: str) -> None:
    """What was set on a socket is remembered, and what was bound is taken, however long ago that was."""
    with socket.socket() as sock, socket.socket() as other:
        with tally.call("options: set, bind"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
            sock.bind(("0.0.0.0", LATE))
        for _ in range(20):
            with tally.call("options: get, and a port that is taken"):
                found = [sock.getsockopt(socket.IPPROTO_TCP, one) for one in (socket.TCP_NODELAY, socket.TCP_KEEPIDLE)]
                if found != [1, 77]:
                    raise ValueError(f"{found} instead of [1, 77]")
                if sock.getsockname() != ("0.0.0.0", LATE):
                    raise ValueError(sock.getsockname())
                with contextlib.suppress(OSError):
                    other.bind(("0.0.0.0", LATE))
                    raise ValueError("bound twice")
            time.sleep(0.02)
        with tally.call("options: listen, accept"):
            sock.listen()
            with socket.create_connection(("127.0.0.1", LATE)) as client:
                accepted, _ = sock.accept()
                with accepted:
                    if accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) != 77:
                        raise ValueError("not inherited")
                    client.sendall(b"x")
                    read_all(accepted, 1)


def resolves(tally: Tally, name: str) -> None:
    with tally.call("names: getaddrinfo"):
        socket.getaddrinfo(name, BLOCKING, socket.AF_INET)
    time.sleep(0.01)


running = threading.Event()


def life(function, tally: Tally, *arguments) -> None:
    while running.is_set():
        function(tally, *arguments)


def run(lives) -> None:
    """``lives``: a function and its arguments, for each thread. Until standard input ends."""
    running.set()
    tallies = []
    threads = []
    for function, *arguments in lives:
        tallies.append(Tally())
        threads.append(threading.Thread(target=life, args=(function, tallies[-1], *arguments), daemon=True))
    for thread in threads:
        thread.start()
    print("running", flush=True)
    sys.stdin.read()
    running.clear()
    faulthandler.dump_traceback_later(PATIENCE - 5)
    end = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    stuck = [lives[index][0].__name__ for index, thread in enumerate(threads) if thread.is_alive()]
    total = Tally()
    for tally in tallies:
        for kind, count in tally.made.items():
            total.made[kind] = total.made.get(kind, 0) + count
        for kind, errors in tally.failed.items():
            total.failed.setdefault(kind, []).extend(errors)
        total.long += tally.long
    for name in stuck:
        total.failed.setdefault(f"{name}: hangs", []).append("hangs")
    print(json.dumps({"made": total.made, "failed": total.failed, "long": total.long}), flush=True)
    os._exit(0)


def client(host: str, service: str, name: str) -> None:
    run([
        (connects, host, BLOCKING, "blocking server"),
        (connects, host, POLLED, "polling server"),
        (connects_polled, host, BLOCKING, "blocking server"),
        (connects_polled, host, POLLED, "polling server"),
        (connects, service, 80, "vservice"),
        (connects_polled, service, 80, "vservice"),
        (denied, host),
        (established, host),
        (queued, host),
        (asks, host),
        (options, host),
        (resolves, name),
    ])  # fmt: skip


def stranger(host: str, port: str) -> None:
    run([(connects, host, int(port), "exposed port"), (connects_polled, host, int(port), "exposed port")])


if __name__ == "__main__":
    # Who asks for names may lose a datagram, or its answer, with each fault: for two tries there are too many here.
    os.environ["RES_OPTIONS"] = "timeout:5 attempts:5"
    {"server": server, "client": client, "stranger": stranger}[sys.argv[1]](*sys.argv[2:])
