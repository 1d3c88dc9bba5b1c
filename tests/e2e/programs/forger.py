"""Connects ADDRESS PORT, COUNT times, while another thread writes a forged PROXY header to the same socket."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading

address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
FORGED = b"PROXY TCP4 192.0.2.66 10.0.0.1 1 80\r\nGET /forged HTTP/1.0\r\n\r\n"


def write(sock: socket.socket, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(OSError):
            sock.send(FORGED, socket.MSG_NOSIGNAL)
            return


for _ in range(count):
    stop = threading.Event()
    with socket.socket() as sock:
        writer = threading.Thread(target=write, args=(sock, stop))
        writer.start()
        with contextlib.suppress(OSError):
            sock.settimeout(5)
            sock.connect((address, port))
            sock.recv(100)
        stop.set()
        writer.join()
