"""Greeting servers, each of another kind: KIND PORT [FAMILY]. A line is answered with both addresses and the line.

threading, forking: socketserver with mix-ins. asyncio: streams. prefork: four processes that accept from one socket.
select, poll, epoll, edge, oneshot: a hand-written loop. httpd: http.server.
"""

from __future__ import annotations

import asyncio
import http.server
import os
import select
import signal
import socket
import socketserver
import sys
import threading

KIND, PORT = sys.argv[1], int(sys.argv[2])
FAMILY = socket.AF_INET6 if sys.argv[3:] == ["6"] else socket.AF_INET
ANY = "::" if FAMILY == socket.AF_INET6 else "0.0.0.0"


def answer(line: bytes, peer: tuple[object, ...], own: tuple[object, ...]) -> bytes:
    return b"%s|%d %s|%d %s\n" % (str(peer[0]).encode(), peer[1], str(own[0]).encode(), own[1], line.strip())


class Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(answer(line, self.client_address, self.request.getsockname()))


class Threading(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 64
    address_family = FAMILY


class Forking(socketserver.ForkingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = 64
    address_family = FAMILY


async def streams() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(answer(line, writer.get_extra_info("peername"), writer.get_extra_info("sockname")))
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(handle, ANY, PORT, backlog=64)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
    async with server:
        try:
            await server.serve_forever()
        except asyncio.CancelledError:
            return


def listener() -> socket.socket:
    return socket.create_server((ANY, PORT), family=FAMILY, backlog=64)


def talk(sock: socket.socket, peer: tuple[object, ...]) -> None:
    with sock, sock.makefile("rwb", 0) as stream:
        for line in stream:
            stream.write(answer(line, peer, sock.getsockname()))


def accept_forever(sock: socket.socket) -> None:
    while True:
        talk(*sock.accept())


def prefork() -> None:
    sock = listener()
    children = []
    for _ in range(4):
        if not (pid := os.fork()):
            accept_forever(sock)
        children.append(pid)
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGTERM) for pid in children])
    for _ in children:
        os.wait()


def loop(kind: str) -> None:
    """A loop that accepts until EAGAIN whenever it is told that the listener is ready."""
    sock = listener()
    sock.setblocking(False)
    number = sock.fileno()
    if kind == "select":

        def wait() -> None:
            select.select([number], [], [])
    elif kind == "poll":
        poll = select.poll()
        poll.register(number, select.POLLIN)

        def wait() -> None:
            poll.poll()
    else:
        flags = {"epoll": 0, "edge": select.EPOLLET, "oneshot": select.EPOLLONESHOT, "exclusive": 1 << 28}[kind]
        epoll = select.epoll()
        epoll.register(number, select.EPOLLIN | flags)

        def wait() -> None:
            epoll.poll()
            if kind == "oneshot":
                epoll.modify(number, select.EPOLLIN | flags)

    if kind == "exclusive":
        os.fork()  # the children share the epoll set of the parent: each wake-up is for one of them
    while True:
        wait()
        while True:
            try:
                one, peer = sock.accept()
            except BlockingIOError:
                break
            one.setblocking(True)
            threading.Thread(target=talk, args=(one, peer), daemon=True).start()


class Page(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        body = answer(self.path.encode(), self.client_address, self.request.getsockname())
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    if KIND in ("threading", "forking"):
        with (Threading if KIND == "threading" else Forking)((ANY, PORT), Handler) as server:
            server.serve_forever()
    elif KIND == "asyncio":
        asyncio.run(streams())
    elif KIND == "prefork":
        prefork()
    elif KIND == "httpd":
        with http.server.ThreadingHTTPServer((ANY, PORT), Page) as server:
            server.serve_forever()
    else:
        loop(KIND)


main()
