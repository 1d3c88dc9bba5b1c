"""Python's own library: what it asks of sockets, in the ways that programs do.

    python.py ADDRESS [ADDRESS4]

The counterpart of probe.h: each function marked ``section`` runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import http.server
import multiprocessing.connection
import os
import select
import selectors
import signal
import socket
import socketserver
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable

SECTIONS: list[Callable[[], None]] = []
SECONDS = 10
HOST = ""
FAMILY = socket.AF_INET


def section(function: Callable[[], None]) -> Callable[[], None]:
    SECTIONS.append(function)
    return function


def say(*words: object) -> None:
    os.write(1, (" ".join(str(word) for word in words) + "\n").encode())


def listener(backlog: int = 16) -> socket.socket:
    return socket.create_server((HOST, 0), family=FAMILY, backlog=backlog)


@section
def recognised_by_number() -> None:
    """socket.socket(fileno=…) asks SO_DOMAIN, SO_TYPE and SO_PROTOCOL."""
    server = listener()
    client = socket.create_connection(server.getsockname()[:2])
    for one in (server, client, server.accept()[0]):
        same = socket.socket(fileno=os.dup(one.fileno()))
        say(same.family == FAMILY, same.type, same.proto)
        same = socket.fromfd(one.fileno(), one.family, one.type)
        say(same.getsockname() == one.getsockname())


@section
def localhost_resolves() -> None:
    found = {info[4][0] for info in socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)}
    say("127.0.0.1" in found or "::1" in found)
    say(socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][4])


@section
def localhost_connects() -> None:
    server = socket.create_server(("localhost", 0))
    client = socket.create_connection(("localhost", server.getsockname()[1]))
    say(server.accept()[1] == client.getsockname())


@section
def timeouts() -> None:
    server = listener()
    server.settimeout(0.05)
    try:
        server.accept()
    except TimeoutError as late:
        say(type(late).__name__, late)
    client = socket.create_connection(server.getsockname()[:2], timeout=2)
    served, _ = server.accept()
    say(served.gettimeout(), client.gettimeout())
    client.settimeout(0.05)
    try:
        client.recv(1)
    except TimeoutError as late:
        say(type(late).__name__, late)


@section
def refused() -> None:
    server = listener()
    address = server.getsockname()
    server.close()
    for timeout in (None, 0, 2):
        client = socket.socket(FAMILY)
        client.settimeout(timeout)
        try:
            client.connect(address)
        except OSError as error:
            say(timeout, errno.errorcode[error.errno or 0])
        client.close()
    say(errno.errorcode.get(socket.socket(FAMILY).connect_ex(address)))


@section
def dual_stack_server() -> None:
    say(socket.has_dualstack_ipv6())
    server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    client = socket.create_connection(("127.0.0.1", server.getsockname()[1]))
    say(server.accept()[1][0], client.getpeername()[0])


@section
def asyncio_streams() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        writer.write(line.upper())
        await writer.drain()
        writer.close()

    async def ask(port: int, number: int) -> str:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(f"line {number}\n".encode())
        answer = (await reader.read()).decode().strip()
        writer.close()
        await writer.wait_closed()
        return answer

    async def main() -> None:
        server = await asyncio.start_server(serve, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        answers = await asyncio.gather(*(ask(port, number) for number in range(50)))
        say(answers == [f"LINE {number}" for number in range(50)])
        server.close()
        await server.wait_closed()
        try:
            await asyncio.open_connection(HOST, port)
        except OSError as error:
            say(errno.errorcode[error.errno or 0])

    asyncio.run(main())


@section
def asyncio_cancelled_connect() -> None:
    async def main() -> None:
        server = listener(backlog=0)
        loop = asyncio.get_running_loop()
        waiting = []
        for _ in range(200):
            client = socket.socket(FAMILY)
            client.setblocking(False)
            try:
                await asyncio.wait_for(loop.sock_connect(client, server.getsockname()), 0.1)
                waiting.append(client)
            except TimeoutError:
                say("timed out")
                client.close()
                break
        server.settimeout(3)
        served = [server.accept()[0] for _ in waiting]
        say(len(served) == len(waiting))

    asyncio.run(main())


@section
def threading_server() -> None:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline()[::-1].strip() + b"\n")

    class Server(socketserver.ThreadingTCPServer):
        address_family = FAMILY
        allow_reuse_address = True
        daemon_threads = True

    with Server((HOST, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        good = 0
        for number in range(30):
            with socket.create_connection(server.server_address[:2]) as client:
                client.sendall(f"{number:04}\n".encode())
                good += client.makefile().readline() == f"{number:04}"[::-1] + "\n"
        say(good)
        server.shutdown()


@section
def forking_server() -> None:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    class Server(socketserver.ForkingTCPServer):
        address_family = FAMILY

    with Server((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        good = 0
        for number in range(10):
            with socket.create_connection(server.server_address[:2]) as client:
                client.sendall(f"{number}\n".encode())
                good += client.makefile().readline() == f"{number}\n"
        say(good)
        server.shutdown()
        thread.join()


@section
def http_over_it() -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = (self.path * 1000).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        address_family = FAMILY

    with Server((HOST, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        host = f"[{HOST}]" if ":" in HOST else HOST
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for path in ("/one", "/two"):
            with opener.open(f"http://{host}:{server.server_port}{path}", timeout=5) as answer:
                say(answer.status, len(answer.read()))
        server.shutdown()


@section
def selector_server() -> None:
    server = listener()
    server.setblocking(False)
    chosen = selectors.DefaultSelector()
    chosen.register(server, selectors.EVENT_READ)
    clients = []
    for _ in range(20):
        client = socket.socket(FAMILY)
        client.setblocking(False)
        chosen.register(client, selectors.EVENT_WRITE)
        clients.append(client)
        with contextlib.suppress(BlockingIOError):
            client.connect(server.getsockname())
    up: set[int] = set()
    served = 0
    end = time.monotonic() + 4
    while (len(up) < 20 or served < 20) and time.monotonic() < end:
        for key, _ in chosen.select(1):
            if key.fileobj is server:
                with contextlib.suppress(BlockingIOError):
                    server.accept()[0].close()
                    served += 1
            else:
                up.add(key.fd)
                chosen.unregister(key.fileobj)
    say(len(up), served, [client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for client in clients] == [0] * 20)


@section
def multiprocessing_connections() -> None:
    if FAMILY == socket.AF_INET6:
        say("multiprocessing speaks IPv4 only")
        return
    with multiprocessing.connection.Listener((HOST, 0), authkey=b"key") as server:
        child = os.fork()
        if child == 0:
            with multiprocessing.connection.Client(server.address, authkey=b"key") as one:
                one.send({"sum": sum(one.recv())})
            os._exit(0)
        with server.accept() as one:
            one.send([1, 2, 3])
            say(one.recv(), server.last_accepted[0] == HOST)
        os.waitpid(child, 0)


@section
def descriptors_handed_over() -> None:
    """socket.send_fds, as pre-forking servers and systemd's helpers do."""
    parent, child_end = socket.socketpair()
    server = listener()
    child = os.fork()
    if child == 0:
        server.close()
        _, fds, _, _ = socket.recv_fds(child_end, 10, 1)
        one, _ = socket.socket(fileno=fds[0]).accept()
        one.sendall(b"from the child")
        os._exit(0)
    socket.send_fds(parent, [b"x"], [server.fileno()])
    with socket.create_connection(server.getsockname()[:2]) as client:
        say(client.recv(100).decode())
    os.waitpid(child, 0)


@section
def files_sent() -> None:
    server = listener()
    client = socket.create_connection(server.getsockname()[:2])
    served, _ = server.accept()
    data = os.urandom(3_000_000)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        sender = threading.Thread(target=lambda: (served.sendfile(file), served.close()))
        sender.start()
        got = hashlib.sha256()
        size = 0
        while piece := client.recv(65536):
            got.update(piece)
            size += len(piece)
        sender.join()
    say(size, got.digest() == hashlib.sha256(data).digest())


@section
def wakeup_by_signal() -> None:
    """A handler that raises ends accept(2)."""

    def stop(_number: int, _frame: object) -> None:
        raise InterruptedError("enough")

    signal.signal(signal.SIGALRM, stop)
    server = listener()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        server.accept()
    except InterruptedError as error:
        say(error)
    client = socket.create_connection(server.getsockname()[:2])
    say(server.accept()[1] == client.getsockname())


@section
def handler_returns() -> None:
    """PEP 475: accept(2) is called again after a handler that returns."""
    handled, told = os.pipe()
    signal.signal(signal.SIGALRM, lambda *_: os.write(told, b"."))
    server = listener()
    address = server.getsockname()

    def later() -> None:
        for _ in range(5):
            os.read(handled, 1)
        socket.create_connection(address[:2]).close()

    threading.Thread(target=later).start()
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    server.accept()
    signal.setitimer(signal.ITIMER_REAL, 0)
    say("accepted")


@section
def many_threads() -> None:
    server = listener(backlog=128)
    threading.Thread(target=lambda: [server.accept()[0].sendall(b"k") for _ in range(200)]).start()
    good = []

    def ask() -> None:
        for _ in range(10):
            with socket.create_connection(server.getsockname()[:2]) as one:
                good.append(one.recv(1))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(good.count(b"k"))


@section
def stream_received_with_address() -> None:
    server = listener()
    client = socket.create_connection(server.getsockname()[:2])
    served, _ = server.accept()
    client.sendall(b"abc")
    say(served.recvfrom(3)[0])


def run(one: Callable[[], None]) -> None:
    say("==", one.__name__)
    child = os.fork()
    if child == 0:
        status = 0
        os.setpgid(0, 0)
        try:
            one()
        except BaseException as error:
            say("FAILED:", type(error).__name__, error)
            status = 1
        os._exit(status)
    ended = os.pidfd_open(child)
    if not select.select([ended], [], [], SECONDS)[0]:
        say("TIMEOUT")
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ended)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


if __name__ == "__main__":
    HOST = sys.argv[1]
    FAMILY = socket.AF_INET6 if ":" in HOST else socket.AF_INET
    for each in SECTIONS:
        run(each)
