"""A server that waits in accept(2), or polls: says what it sees of each connection, again for each line it reads."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading

kept: list[socket.socket] = []


def say(word: str) -> None:
    """One line for each connection."""
    for sock in kept:
        own, peer = sock.getsockname(), sock.getpeername()
        print(word, own[0], own[1], peer[0], peer[1], flush=True)


def take(listener: socket.socket) -> None:
    """Accept one."""
    sock, peer = listener.accept()
    assert sock.getpeername() == peer, (sock.getpeername(), peer)
    request = sock.recv(4096)
    kept.append(sock)
    sock.sendall(f"{sys.argv[2]} {len(request)}\n".encode())


def serve(listener: socket.socket) -> None:
    """Some threads do this."""
    while True:
        take(listener)


def poll(listener: socket.socket) -> None:
    """One does this: it takes all that are there, and asks once more than there are."""
    listener.setblocking(False)
    while True:
        select.select([listener], [], [])
        with contextlib.suppress(BlockingIOError):
            while True:
                take(listener)


def main() -> None:
    """PORT WORD THREADS; no threads: poll."""
    listener = socket.create_server(("", int(sys.argv[1])), backlog=64)
    signal.signal(signal.SIGUSR1, lambda *_: None)  # accept(2) begins anew: PEP 475
    work = [serve] * int(sys.argv[3]) or [poll]
    threads = [threading.Thread(target=one, args=(listener,), daemon=True) for one in work]
    for thread in threads:
        thread.start()
    for line in sys.stdin:
        if line == "interrupt\n":
            for thread in threads:
                signal.pthread_kill(thread.ident or 0, signal.SIGUSR1)
            print("interrupted", flush=True)
        else:
            say(line.strip())
            print("all", line.strip(), flush=True)
    os._exit(0)


main()
