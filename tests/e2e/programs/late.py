"""Clients of a server that may not be up yet: HOW HOST PORT [SECONDS], where SECONDS is a time-out of its own.

HOW: blocking, poll, epoll, select, asyncio, again (connect(2) until it says EISCONN), sndtimeo (SO_SNDTIMEO).
Prints what it says when connect(2) has returned at once (non-blocking ones: "in progress"), and in the end its own and
its peer's address and the first line that the server sent, or the name of the errno.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
import sys
import time

HOW, HOST, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])
SECONDS = float(sys.argv[4]) if len(sys.argv) > 4 else None


def wait_poll(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    assert poll.poll()


def wait_epoll(sock: socket.socket) -> None:
    with select.epoll() as epoll:
        epoll.register(sock, select.EPOLLOUT | select.EPOLLET)
        assert epoll.poll()


def wait_select(sock: socket.socket) -> None:
    assert select.select([], [sock], [])[1]


def wait_again(sock: socket.socket) -> None:
    while (error := sock.connect_ex((HOST, PORT))) != errno.EISCONN:
        if error not in (errno.EALREADY, 0):
            raise OSError(error, os.strerror(error))
        time.sleep(0.005)  # no wait for something: programs that ask again and again are what is tried


WAYS = {"poll": wait_poll, "epoll": wait_epoll, "select": wait_select, "again": wait_again}


def in_progress(sock: socket.socket) -> None:
    sock.setblocking(False)
    error = sock.connect_ex((HOST, PORT))
    assert error == errno.EINPROGRESS, errno.errorcode.get(error)
    print("in progress", flush=True)
    WAYS[HOW](sock)
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    sock.setblocking(True)


def tell(own: tuple[object, ...], peer: tuple[object, ...], line: str) -> None:
    print(f"{own[0]} {peer[0]} {peer[1]} {line.strip()}")


def sync() -> None:
    with socket.socket() as sock:
        if HOW in WAYS:
            in_progress(sock)
        else:
            if HOW == "sndtimeo":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("qq", 0, int(1e6 * (SECONDS or 0))))
            print("blocking", flush=True)
            sock.connect((HOST, PORT))
        with sock.makefile("r") as lines:
            tell(sock.getsockname(), sock.getpeername(), lines.readline())


async def streams() -> None:
    print("in progress", flush=True)
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection(HOST, PORT)
    line = await reader.readline()
    tell(writer.get_extra_info("sockname"), writer.get_extra_info("peername"), line.decode())
    writer.close()
    await writer.wait_closed()


started = time.monotonic()
try:
    asyncio.run(streams()) if HOW == "asyncio" else sync()
except TimeoutError as error:
    print(errno.errorcode.get(error.errno or 0, "timeout"), round(time.monotonic() - started, 1))
except OSError as error:
    print(errno.errorcode.get(error.errno or 0), round(time.monotonic() - started, 1))
